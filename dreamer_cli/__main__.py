"""`python -m dreamer_cli` is `dreamer`."""

import sys

from dreamer_cli.cli import main

if __name__ == "__main__":
    sys.exit(main())
