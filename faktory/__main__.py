"""`python -m faktory`: the tools."""

import sys

from .cli import conflict
from .cli.tools.main import main

if __name__ == "__main__":
    if sys.argv[1:2] != ["doctor"]:  # it reports that itself
        conflict.warn()
    sys.exit(main())
