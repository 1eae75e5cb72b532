"""Analyses of a finished run. `run` imports every module of this folder, so that its analysis is registered."""
