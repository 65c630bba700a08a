"""The tests, which import tools as ``tools.<name>``."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tools"))  # of their private neighbours
