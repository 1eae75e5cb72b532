"""Banks made, found and opened for a recipe."""
