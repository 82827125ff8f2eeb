"""Lets the tests of the kernel share their world; pytest imports each test file on its own."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
