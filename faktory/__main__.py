"""`python -m faktory`: the tools."""

import sys

from .cli.tools import main

if __name__ == "__main__":
    sys.exit(main())
