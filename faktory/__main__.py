"""`python -m faktory`: the tools."""

import sys

if __name__ == "__main__":
    if sys.argv[1:2] == ["health"]:  # a probe, which must take no time
        from .cli.tools import health

        sys.exit(health.main(sys.argv[2:]))

    from .cli import conflict
    from .cli.tools.main import main

    if sys.argv[1:2] != ["doctor"]:  # it reports that itself
        conflict.warn()
    sys.exit(main())
