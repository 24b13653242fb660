"""Entry point: ``python -m experiments list`` or ``python -m experiments NAME``."""

import sys

from experiments import _cli

if __name__ == "__main__":
    sys.exit(_cli.main(sys.argv[1:]))
