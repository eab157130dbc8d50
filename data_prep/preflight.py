"""Moved to `python -m training.preflight`. To be removed with 0.3."""

import sys

sys.exit("error: this command is now `python -m training.preflight`, with the same arguments")
