"""Loss functions that no method of classification uses yet: for dense tasks and tokens."""
