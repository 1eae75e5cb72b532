"""Recipes: what a person writes, found, read, merged and checked; the shipped ones lie in `library`."""
