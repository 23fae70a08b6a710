"""`python -m faktory` is the program `faktory-worker`; alone it lists the tools."""

import sys

from .cli.program import AS_MODULE, main

if __name__ == "__main__":
    sys.exit(main(prog=AS_MODULE))
