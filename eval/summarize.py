"""Moved to `python -m chat.summarize`. To be removed with 0.3."""

import sys

sys.exit("error: this command is now `python -m chat.summarize`, with the same arguments")
