"""Errors that the user can fix, and output files that are written completely or not at all."""

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

# On a CPU with AVX512-BF16, bitsandbytes 0.50 (backends/cpu/ops.py) downloads this kernel from the
# Hub on import and loads its compiled code; its own C function does the same work. `LOCAL_KERNELS`
# makes the package `kernels` use a local folder instead; if that folder is missing, it raises an
# error that bitsandbytes catches. Other kernels and models are not affected.
NO_CPU_KERNEL = "kernels-community/quantization-bitsandbytes=/nonexistent"
# Other libraries read these variables on import, so each of our packages imports this module first,
# in a command as in a notebook's `from eval.generate import Summarizer`.
os.environ.setdefault("AXOLOTL_DO_NOT_TRACK", "1")
if NO_CPU_KERNEL not in (local_kernels := os.environ.get("LOCAL_KERNELS", "")):
    os.environ["LOCAL_KERNELS"] = f"{NO_CPU_KERNEL}:{local_kernels}".rstrip(":")

# C0 and C1 except tab and newline, surrogates, and characters that change the text direction
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")

# The same, except colours and what a progress bar uses to go to the line's start or one line up
NOT_OURS = re.compile(rf"(?!\r|\x1b\[[\d;]*[mA]){CONTROL.pattern}")
MAX_BYTES = 10**9  # limit for a file that is read into memory as a whole

VERBOSE = "SAMSUM_LORA_VERBOSE"  # if set, the libraries' own output is shown
debug = False  # whether `--debug` was given
OUR_PREFIX = "samsum-lora"  # prefix of our temporary folders


class UserError(Exception):
    """Bad input; the message is one line that says where and what is wrong and how to fix it."""


def run_cli(main: Callable[[], None]) -> None:
    """Run a command; an error prints one line on stderr and exits with code 2, Ctrl-C with 130.

    This includes all errors of readers, decoders and parsers. `--debug` adds the traceback, and
    `--verbose` the libraries' own output.
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
            reconfigure(errors="backslashreplace")  # for encodings without the character
        stream.write = partial(_write, type(stream).write, stream)  # type: ignore[method-assign]
    with suppress(OSError):  # there may be no temporary folder
        _remove_leftovers(Path(tempfile.gettempdir()), OUR_PREFIX)
    # exit normally, so that half-written files and unpacked folders are removed, as with Ctrl-C
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        main()
        if sys.stdout:
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted; finished work is kept", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the exit fails
        sys.exit(141)
    except Exception as error:
        print(f"error: {as_one_line(error)}", file=sys.stderr)
        sys.exit(2)


def as_one_line(error: Exception) -> str:
    """Return an error as one line, for a terminal or a web page; `--debug` prints its traceback."""
    if debug:
        traceback.print_exception(error)
    line = str(error)
    if not isinstance(error, UserError):
        where = _file_of(error)
        line = (
            f"{where}: {error_reason(error)}; fix or replace the input, or run with --debug to see "
            "where it happened"
        ).removeprefix(": ")
    return printable(" ".join(line.split()))


def _file_of(error: Exception) -> str:
    """Return the file that an error is about: its own, or a path from the innermost function."""
    if isinstance(error, OSError) and error.filename:
        return str(error.filename)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    values = (value for frame in reversed(frames) for value in frame.f_locals.values())
    return next((str(value) for value in values if isinstance(value, Path) and value.is_file()), "")


def _write(write: Callable[[IO[str], str], int], stream: IO[str], text: str) -> int:
    """Write text with control characters escaped, except those of colours and progress bars."""
    return write(stream, NOT_OURS.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def printable(text: str) -> str:
    """Return the text with control characters, which a terminal would act on, escaped."""
    return CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)  # as in JSON


def _quiet_libraries() -> None:
    """Silence import-time messages about kernels that a CPU cannot use.

    Also answer no when transformers asks on standard input whether a model's code may run.
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
    """Raise UserError for a folder, a pipe or device (it may never end), or over `most` bytes.

    `shown`: the file's name in the message. Raises OSError if the file does not exist.
    """
    status, shown = path.stat(), shown or str(path)
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{shown}: is a folder; give a file")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{shown}: is a pipe or a device; save its output in a file")
    if most and status.st_size > most:
        raise UserError(
            f"{shown}: has {status.st_size / 1e6:.1f} MB, more than the limit of {most / 1e6:g} MB "
            "for such a file; check that it is the right one"
        )


@contextmanager
def reading(path: Path, fix: str, most: int = MAX_BYTES, shown: str = "") -> Iterator[None]:
    """Turn any error of reading, decoding or parsing a file into a UserError.

    Its message contains `path` (or `shown`) and `fix`. `most`: the file's size limit in bytes.
    """
    try:
        check_file(path, most, shown)
        yield
    except UserError:
        raise
    except Exception as error:  # parsers raise many unrelated types
        raise UserError(f"{shown or path}: {error_reason(error)}; {fix}") from error


def error_reason(error: Exception) -> str:
    """Return an error's reason, in a few words that can follow a file name."""
    if isinstance(error, FileNotFoundError) and "temporary directory" in str(error):
        return "needs a folder for temporary files; set TMPDIR to a writable one"
    if isinstance(error, FileNotFoundError):
        return "is missing"
    if isinstance(error, UnicodeDecodeError):
        return f"is not UTF-8 (byte {error.start})"
    reason = str(error)
    if isinstance(error, OSError):
        reason = error.strerror or reason
    elif isinstance(error, RecursionError):
        reason = "nested too deeply"
    elif isinstance(error, MemoryError):
        reason = "not enough memory"
    elif errors := getattr(error, "errors", None):  # pydantic's
        reason = f"{'.'.join(map(str, errors()[0]['loc'])) or 'all of it'}: {errors()[0]['msg']}"
    elif not isinstance(error, ValueError):
        reason = f"{type(error).__name__}: {reason}"
    reason = " ".join(reason.split())
    return f"cannot be read ({reason if len(reason) <= 300 else f'{reason[:300]}...'})"


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn an OSError, such as a full disk, into a UserError that contains `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{path}: cannot be written ({reason}); free some space or choose another place. "
            "Earlier files are untouched"
        ) from error


def check_outputs(*paths: Path, inputs: Sequence[Path] = ()) -> None:
    """Raise UserError if one of these files cannot be replaced, or is one of the `inputs`."""
    places = [os.path.realpath(path) for path in paths]
    for path in paths:
        why = ""
        if places.count(os.path.realpath(path)) > 1:
            why = "is given for two outputs"
        elif any(path.exists() and other.exists() and path.samefile(other) for other in inputs):
            why = "is also an input of this command"
        elif path.is_symlink() or (path.exists() and not path.is_file()):
            why = "is not a plain file but a folder, a link or a device"
        elif path.exists() and not os.access(path, os.W_OK):
            why = "is write-protected"
        if why:
            raise UserError(f"{path}: {why}; choose another place. Earlier files are untouched")


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[str]]:
    """Open a text file that replaces `path` only if the block ends without an error."""
    with atomic_files(path.parent, path.name) as files:
        yield files[path.name]


@contextmanager
def atomic_files(folder: Path, *names: str) -> Iterator[dict[str, IO[str]]]:
    """Open text files that replace the files `names` in `folder`, all of them or none.

    They replace them in the order of `names`, after the block has ended and all are on the disk.
    Raises UserError before the block if one of them cannot be replaced.
    """
    targets = {name: folder / name for name in names}
    with ExitStack() as stack:
        with writing_to(folder / names[0]), ExitStack() as opened:
            check_outputs(*targets.values())  # before the work, and again after it
            files: dict[str, IO[str]] = {}
            for name, target in targets.items():
                target.parent.mkdir(parents=True, exist_ok=True)
                create = partial(Path.touch, exist_ok=False)
                hidden_name = f".{target.name[:48]}"  # a name has at most 255 bytes
                path = stack.enter_context(_partial_path(target.parent, hidden_name, create))
                files[name] = opened.enter_context(path.open("w", encoding="utf-8", newline="\n"))
            yield files
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
            check_outputs(*targets.values())
        for name, target in targets.items():
            os.replace(files[name].name, target)


def temporary_folder(beside: Path | None = None) -> AbstractContextManager[Path]:
    """Create a temporary folder in TMPDIR for unpacked files, which other users cannot read.

    With `beside`, create it next to that folder instead, which it will replace.
    """
    if beside:
        return _partial_path(beside.parent, f".{beside.name}", Path.mkdir)
    return _partial_path(Path(tempfile.gettempdir()), OUR_PREFIX, partial(Path.mkdir, mode=0o700))


@contextmanager
def _partial_path(folder: Path, name: str, make: Callable[[Path], None]) -> Iterator[Path]:
    """Create a file or folder `<name>.<32 hex digits>.partial`; removed when the block ends.

    The digits are not the process id: two containers on one volume may have the same one.
    """
    _remove_leftovers(folder, name)
    digits = uuid4().hex
    new, path = folder / f".{digits}", folder / f"{name}.{digits}.partial"
    try:
        make(new)
        with _locked(new, needed=False):
            new.rename(path)  # other processes find it only now that it is locked
            yield path
    finally:
        for leftover in (new, path):
            with suppress(OSError):  # at most one of the two exists
                _remove(leftover)


def _remove_leftovers(folder: Path, name: str) -> None:
    """Remove leftovers of killed processes, which no longer hold their locks."""
    for leftover in folder.iterdir():
        if re.fullmatch(rf"{re.escape(name)}\.[0-9a-f]{{32}}\.partial", leftover.name):
            with suppress(OSError), _locked(leftover):
                if leftover.stat().st_uid == os.geteuid():
                    _remove(leftover)


@contextmanager
def _locked(path: Path, needed: bool = True) -> Iterator[None]:
    """Hold a file's or folder's lock; raises OSError if it is `needed` and cannot be acquired."""
    mode = os.O_RDONLY if path.is_dir() else os.O_RDWR  # NFS locks only writable files
    descriptor = os.open(path, mode | os.O_NOFOLLOW)
    try:
        # Lustre may have no locks: leftovers of kill -9 stay there
        with nullcontext() if needed else suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if not path.is_dir():
        path.unlink()
        return
    for parent, folders, _ in os.walk(path):  # folders from an archive may be read-only
        for inner in (os.path.join(parent, name) for name in folders):
            if not os.path.islink(inner):
                os.chmod(inner, 0o700)
    shutil.rmtree(path, ignore_errors=True)
