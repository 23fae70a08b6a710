"""`python -m faktory`: the tools."""

import sys

from .cli import conflict
from .cli.tools import main

if __name__ == "__main__":
    conflict.warn()
    sys.exit(main())
