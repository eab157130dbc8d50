"""Errors that the user can fix, and files that appear whole or not at all."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

# bitsandbytes 0.50 asks the hub for this kernel on import (backends/cpu/ops.py, on a CPU with
# AVX512-BF16), and loads compiled code from there; its own C function does the same. The package
# `kernels` reads `LOCAL_KERNELS`: it takes the folder named there, and one that is missing is an
# error that bitsandbytes catches. No other kernel and no model is kept away.
NO_CPU_KERNEL = "kernels-community/quantization-bitsandbytes=/nonexistent"
# Each of our packages imports this module before anything else, for other packages read these on
# import: a command's first lines, and a notebook's `from eval.generate import Summarizer`.
os.environ.setdefault("AXOLOTL_DO_NOT_TRACK", "1")
if NO_CPU_KERNEL not in (others := os.environ.get("LOCAL_KERNELS", "")):
    os.environ["LOCAL_KERNELS"] = f"{NO_CPU_KERNEL}:{others}".rstrip(":")


class UserError(Exception):
    """Bad input: one line that says what is wrong, where, and how to fix it."""


def run_cli(main: Callable[[], None]) -> None:
    """Run a command; bad input ends it with one line on stderr and exit code 2, Ctrl-C with 130."""
    _quiet_libraries()
    try:
        main()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python's end fails
        sys.exit(141)


def _quiet_libraries() -> None:
    """Silence what some packages say on import about kernels that a CPU has no use for."""
    for name in ("torchao", "torch.utils._pytree", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="bitsandbytes")


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
    with whole_files(path.parent, path.name) as files:
        yield files[path.name]


@contextmanager
def whole_files(folder: Path, *names: str) -> Iterator[dict[str, IO[str]]]:
    """Open text files in `folder` that replace those of these names, all or none of them.

    They do so, in the order of `names`, once the block has ended and all of them are on the disk.
    """
    partials = {name: folder / f".{name}.{os.getpid()}.partial" for name in names}
    try:
        with writing_to(folder), ExitStack() as stack:
            folder.mkdir(parents=True, exist_ok=True)
            files: dict[str, IO[str]] = {
                name: stack.enter_context(path.open("w", encoding="utf-8", newline="\n"))
                for name, path in partials.items()
            }
            yield files
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
            for name, path in partials.items():
                path.replace(folder / name)
    finally:
        for path in partials.values():
            with suppress(OSError):  # where the folder is none, neither is the file
                path.unlink()
