"""What a run leaves, as types: written and read by the same classes."""
