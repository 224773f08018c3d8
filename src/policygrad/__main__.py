"""`python -m policygrad`: the command."""

from __future__ import annotations

import sys

from policygrad.cli import main

if __name__ == "__main__":
    sys.exit(main())
