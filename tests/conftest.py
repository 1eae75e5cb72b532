"""What holds for all tests: one thread of torch each, and no deadline by the wall clock, which a busy machine moves."""

from __future__ import annotations

import torch
from hypothesis import settings

torch.set_num_threads(1)  # threads that wait for each other on shared cores take ten times as long as one

settings.register_profile("no wall clock", settings.default, deadline=None)
settings.load_profile("no wall clock")
