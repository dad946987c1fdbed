"""`python -m sinkd` is `sinkd`."""

import sys

from sinkd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
