"""``python -m cgru``: the command line."""

import sys

from .cli.commands import main

if __name__ == "__main__":  # a process that this one starts imports this module under another name
    sys.exit(main())
