"""Moved to `python -m chat.summarize`. To be removed with 0.2."""

import sys

print(
    "error: this command is now `python -m chat.summarize`, with the same arguments",
    file=sys.stderr,
)
sys.exit(2)
