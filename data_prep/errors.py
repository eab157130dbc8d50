"""Errors that the user can fix, and files that appear whole or not at all."""

import builtins
import fcntl
import logging
import os
import re
import shutil
import signal
import stat
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import IO
from uuid import uuid4

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

# C0 and C1 but for line ends and tabs, halves of surrogate pairs, and what turns the direction
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")

# The same but for colours, and for a progress bar's way to the line's start and the line above
NOT_OURS = re.compile(rf"(?!\r|\x1b\[[\d;]*[mA]){CONTROL.pattern}")
MOST_BYTES = 10**9  # of a file that is read as a whole

VERBOSE = "SAMSUM_LORA_VERBOSE"  # set: libraries may say what they like
debug = False  # whether `--debug` was given, also to the command that started this one
UNPACKED = "samsum-lora"  # begins the names of our temporary folders


class UserError(Exception):
    """Bad input: one line that says what is wrong, where, and how to fix it."""


def run_cli(main: Callable[[], None]) -> None:
    """Run a command; bad input ends it with one line on stderr and exit code 2, Ctrl-C with 130.

    That holds for whatever a reader, a decoder or a parser raises; `--debug` adds the traceback,
    and `--verbose` what libraries say.
    """
    global debug
    if "--debug" in sys.argv[1:]:
        debug = True
        sys.argv.remove("--debug")
    if "--verbose" in sys.argv[1:]:
        os.environ[VERBOSE] = "1"  # also for the commands that this one starts
        sys.argv.remove("--verbose")
    _quiet_libraries()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")  # a terminal may have no letter for it
        stream.write = partial(_write, type(stream).write, stream)  # type: ignore[method-assign]
    with suppress(OSError):  # there may be no temporary folder
        _remove_left(Path(tempfile.gettempdir()), UNPACKED)
    # files that are half-written and folders of what was unpacked are removed, as with Ctrl-C
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        main()
        if sys.stdout:
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python's end fails
        sys.exit(141)
    except Exception as error:
        print(f"error: {line_of(error)}", file=sys.stderr)
        sys.exit(2)


def line_of(error: Exception) -> str:
    """An error as one line for a terminal or a page; `--debug` prints its traceback, too."""
    if debug:
        traceback.print_exception(error)
    line = str(error)
    if not isinstance(error, UserError):
        where = _file_of(error)
        line = (
            f"{where}: {reason_of(error)}; correct or replace what this names, or find out with "
            "--debug where it happened"
        ).removeprefix(": ")
    return printable(" ".join(line.split()))


def _file_of(error: Exception) -> str:
    """The file that an error is about: its own, or the one that the innermost function had."""
    if isinstance(error, OSError) and error.filename:
        return str(error.filename)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    held = (value for frame in reversed(frames) for value in frame.f_locals.values())
    return next((str(one) for one in held if isinstance(one, Path) and one.is_file()), "")


def _write(write: Callable[[IO[str], str], int], stream: IO[str], text: str) -> int:
    """Write to a stream what a terminal does not obey, but for colours and progress bars."""
    return write(stream, NOT_OURS.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def printable(text: str) -> str:
    """The text with an escape for each character that a terminal would obey or cannot show."""
    return CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)  # as JSON has it, too


def _quiet_libraries() -> None:
    """Silence what some packages say on import about kernels that a CPU has no use for.

    And what transformers asks on standard input, whether code of a model may run: no.
    """
    builtins.input = lambda *_: ""
    if os.environ.get(VERBOSE):
        return
    if not (sys.stderr and sys.stderr.isatty()):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' bars, too
    for name in ("torchao", "torch.utils._pytree", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="bitsandbytes")


def check_file(path: Path, most: int | None = None, shown: str = "") -> None:
    """Raise UserError for a pipe or a device, which may never end, and for more than `most` bytes.

    `shown`: how the message names the file. Raises OSError where there is no such file.
    """
    status, shown = path.stat(), shown or str(path)
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{shown}: is a folder; name a file")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{shown}: is a pipe or a device; save what it gives in a file")
    if most and status.st_size > most:
        raise UserError(
            f"{shown}: holds {status.st_size / 1e6:.1f} MB, and {most / 1e6:g} are the most for "
            "such a file; is it the right one?"
        )


@contextmanager
def reading(path: Path, fix: str, most: int = MOST_BYTES, shown: str = "") -> Iterator[None]:
    """Turn what goes wrong while a file is read, decoded and parsed into a UserError.

    It names `path` (as `shown`) and `fix`. `most`: how many bytes such a file may have.
    """
    try:
        check_file(path, most, shown)
        yield
    except UserError:
        raise
    except Exception as error:  # parsers raise what they like
        raise UserError(f"{shown or path}: {reason_of(error)}; {fix}") from error


def reason_of(error: Exception) -> str:
    """What an error says, in a few words that can follow the name of a file."""
    if isinstance(error, FileNotFoundError) and "temporary directory" in str(error):
        return "needs a folder for temporary files; set TMPDIR to one that can be written"
    if isinstance(error, FileNotFoundError):
        return "is missing"
    if isinstance(error, UnicodeDecodeError):
        return f"is not UTF-8 (byte {error.start})"
    words = str(error)
    if isinstance(error, OSError):
        words = error.strerror or words
    elif isinstance(error, RecursionError):
        words = "nested too deeply"
    elif isinstance(error, MemoryError):
        words = "more than there is memory for"
    elif errors := getattr(error, "errors", None):  # pydantic's
        words = f"{'.'.join(map(str, errors()[0]['loc'])) or 'all of it'}: {errors()[0]['msg']}"
    elif not isinstance(error, ValueError):
        words = f"{type(error).__name__}: {words}"
    words = " ".join(words.split())
    return f"cannot be read ({words if len(words) <= 300 else f'{words[:300]}...'})"


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


def check_outputs(*paths: Path, inputs: Sequence[Path] = ()) -> None:
    """Raise UserError where one of these files cannot be replaced, or is one of the `inputs`."""
    places = [os.path.realpath(path) for path in paths]
    for path in paths:
        why = ""
        if places.count(os.path.realpath(path)) > 1:
            why = "is named for two outputs"
        elif any(path.exists() and other.exists() and path.samefile(other) for other in inputs):
            why = "is also an input of this command"
        elif path.is_symlink() or (path.exists() and not path.is_file()):
            why = "is not a plain file but a folder, a link or a device"
        elif path.exists() and not os.access(path, os.W_OK):
            why = "is write-protected"
        if why:
            raise UserError(f"{path}: {why}; choose another place. Earlier files are untouched")


@contextmanager
def whole_file(path: Path) -> Iterator[IO[str]]:
    """Open a text file that replaces `path` only when the block ends without an error."""
    with whole_files(path.parent, path.name) as files:
        yield files[path.name]


@contextmanager
def whole_files(folder: Path, *names: str) -> Iterator[dict[str, IO[str]]]:
    """Open text files in `folder` that replace those of these names, all or none of them.

    They do so, in the order of `names`, once the block has ended and all of them are on the disk.
    Raises UserError before the block where one of them cannot be replaced.
    """
    targets = {name: folder / name for name in names}
    with ExitStack() as stack:
        with writing_to(folder / names[0]), ExitStack() as opened:
            check_outputs(*targets.values())  # before the work, and again after it
            files: dict[str, IO[str]] = {}
            for name, target in targets.items():
                target.parent.mkdir(parents=True, exist_ok=True)
                new = partial(Path.touch, exist_ok=False)
                hidden = f".{target.name[:48]}"  # a name of more than 255 bytes is none
                path = stack.enter_context(_partial(target.parent, hidden, new))
                files[name] = opened.enter_context(path.open("w", encoding="utf-8", newline="\n"))
            yield files
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
            check_outputs(*targets.values())
        for name, target in targets.items():
            os.replace(files[name].name, target)


def temporary_folder(beside: Path | None = None) -> AbstractContextManager[Path]:
    """A folder in TMPDIR for what is unpacked, which no other user may read.

    Or one `beside` a folder that it is to replace.
    """
    if beside:
        return _partial(beside.parent, f".{beside.name}", Path.mkdir)
    return _partial(Path(tempfile.gettempdir()), UNPACKED, partial(Path.mkdir, mode=0o700))


@contextmanager
def _partial(folder: Path, name: str, make: Callable[[Path], None]) -> Iterator[Path]:
    """A file or folder `<name>.<32 hex digits>.partial`, which is gone when the block ends.

    The name does not tell the process: two containers on one volume may have the same number.
    """
    _remove_left(folder, name)
    number = uuid4().hex
    new, path = folder / f".{number}", folder / f"{name}.{number}.partial"
    try:
        make(new)
        with _locked(new, needed=False):
            new.rename(path)  # only now can another process find it, and it is locked
            yield path
    finally:
        for made in (new, path):
            with suppress(OSError):  # where the folder is none, neither is the file
                _remove(made)


def _remove_left(folder: Path, name: str) -> None:
    """Remove what processes that were killed have left: their locks ended with them."""
    for left in folder.iterdir():
        if re.fullmatch(rf"{re.escape(name)}\.[0-9a-f]{{32}}\.partial", left.name):
            with suppress(OSError), _locked(left):
                if left.stat().st_uid == os.geteuid():
                    _remove(left)


@contextmanager
def _locked(path: Path, needed: bool = True) -> Iterator[None]:
    """Hold a file's or folder's lock; raises OSError where it is `needed` and cannot be had."""
    mode = os.O_RDONLY if path.is_dir() else os.O_RDWR  # NFS locks what can be written
    descriptor = os.open(path, mode | os.O_NOFOLLOW)
    try:
        # Lustre may have no locks: there, what kill -9 leaves stays
        with nullcontext() if needed else suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if not path.is_dir():
        path.unlink()
        return
    for parent, folders, _ in os.walk(path):  # an archive can make a folder read-only
        for inner in (os.path.join(parent, name) for name in folders):
            if not os.path.islink(inner):
                os.chmod(inner, 0o700)
    shutil.rmtree(path, ignore_errors=True)
