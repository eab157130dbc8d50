"""Moved to `python -m chat.page`. To be removed with 0.3."""

import sys

sys.exit("error: this command is now `python -m chat.page`, with the same arguments")
