"""What holds for all tests: hypothesis has no deadline by the wall clock, which a busy machine moves."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("no wall clock", settings.default, deadline=None)
settings.load_profile("no wall clock")
