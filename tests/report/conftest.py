"""A run folder for the tests that only read it, and the command line in process."""

from pathlib import Path

import pytest

from helpers.run_writer import write_run


@pytest.fixture(scope="session")
def full_run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "demo")
