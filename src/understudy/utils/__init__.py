"""Files, errors, seeds and the machine: knows nothing of learning."""
