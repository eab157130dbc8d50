"""Errors that the user can mend, and files that appear whole or not at all."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


class UserError(Exception):
    """Bad input: one line that says what is wrong, where, and how to mend it."""


def run_cli(main: Callable[[], None]) -> None:
    """Run a command; bad input ends it with one line on stderr and exit code 2, Ctrl-C with 130."""
    try:
        main()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn a full disk, a missing permission or the like into a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{path}: cannot be written ({reason}); free the space or choose another place. "
            "Earlier files are untouched"
        ) from error


@contextmanager
def whole_file(path: Path) -> Iterator[IO[str]]:
    """Open a text file that replaces `path` only when the block ends without an error."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with writing_to(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("w", encoding="utf-8", newline="\n") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
