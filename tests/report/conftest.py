"""A run folder for the tests that only read it."""

from pathlib import Path

import pytest
from run_writer import write_run


@pytest.fixture(scope="session")
def full_run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "demo")
