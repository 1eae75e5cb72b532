"""Batches: the plan of an epoch and one loader for each place where images lie."""
