"""A run folder for the tests that only read it, and the command line in process."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # where front_helpers.py is

from run_writer import write_run


@pytest.fixture(scope="session")
def full_run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "demo")
