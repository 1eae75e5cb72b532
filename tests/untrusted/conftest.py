"""What other folders of tests share is at hand here too: the command line in process, and run folders as written."""

import sys
from pathlib import Path

_TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(_TESTS), str(_TESTS / "report")]
