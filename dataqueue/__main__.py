"""``python -m dataqueue``: the command line."""

import sys

from dataqueue.cli import main

if __name__ == "__main__":
    sys.exit(main())
