"""The folder of compiled programs that all tests, and the scripts that they start, share."""

import getpass
import tempfile
from pathlib import Path

PROGRAMS = Path(tempfile.gettempdir()) / f"jfedsl-tests-{getpass.getuser()}"
