"""A recipe becomes a run folder."""
