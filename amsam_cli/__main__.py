"""`python -m amsam_cli` is `amsam`."""

import sys

from amsam_cli.cli import main

if __name__ == "__main__":
    sys.exit(main())
