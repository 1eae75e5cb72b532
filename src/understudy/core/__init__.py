"""The words of a step: Batch, Pairing, taps, precision; torch and nothing else."""
