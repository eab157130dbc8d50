"""Several processes that train together: who speaks, who goes first, how all of them end."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from data_prep.errors import UserError


def refuse(problems: list[str]) -> None:
    """Raise UserError for all problems together, numbered where there are several."""
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        raise UserError("\n".join(f"{n}. {text}" for n, text in enumerate(problems, 1)))


def is_first_process() -> bool:
    """Whether this process speaks and writes for all."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def ending_with_one_line() -> Iterator[None]:
    """Turn a UserError into its text on stderr and exit code 2."""
    try:
        yield
    except UserError as error:
        if is_first_process():
            print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from error


@contextmanager
def first_process_first() -> Iterator[None]:
    """Let the first process do something, then the others, which find what it has left.

    It looks at the data, sets aside what is broken, and must not meet another that writes already.
    Where it ends in an error, the launcher ends the others.
    """
    from axolotl.utils.distributed import barrier

    if not is_first_process():
        barrier()
    try:
        yield
    except SystemExit as stop:
        if not stop.code and is_first_process():
            barrier()  # a run that is finished already: the others are to say so too
        raise
    if is_first_process():
        barrier()
