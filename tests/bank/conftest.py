"""Where the helpers are that the banks' tests share with others, whichever folder pytest is asked for."""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
for folder in (TESTS, TESTS / "contract"):
    sys.path.insert(0, str(folder))
