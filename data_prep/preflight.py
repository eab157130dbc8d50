"""Moved to `python -m training.preflight`. To be removed with 0.2."""

import sys

print(
    "error: this command is now `python -m training.preflight`, with the same arguments",
    file=sys.stderr,
)
sys.exit(2)
