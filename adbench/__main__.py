"""``python -m adbench``."""

import sys

from adbench.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
