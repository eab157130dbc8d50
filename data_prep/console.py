"""A command's output: plain lines, progress bars on a terminal; libraries can be muted."""

import atexit
import logging
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from functools import cache, partial
from textwrap import fill
from time import monotonic
from typing import IO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from data_prep.errors import VERBOSE, printable

Row = TypeVar("Row")

# rich shows colours and bars only on terminals, and respects NO_COLOR, TERM=dumb and COLUMNS
out, err = Console(), Console(stderr=True)
_muted: list[IO[str]] = []  # the muted streams
_hidden_texts: deque[str] = deque(maxlen=400)  # the latest texts written to them, shown on an error
_bars: list["Bar"] = []  # the bars on the terminal


def verbose() -> bool:
    """Return whether to show the libraries' own output: `--verbose`, or the variable is set."""
    return bool(os.environ.get(VERBOSE))


def say(text: object, style: str | None = None, error: bool = False) -> None:
    """Print a text on stdout, or with `error` on stderr, even above a bar or while muted.

    Lines are wrapped to fit a terminal, except in errors, which contain commands to copy.
    """
    console = err if error and not (_bars and err.is_terminal) else out
    lines = printable(str(text)).split("\n")
    if console.is_terminal and not error:
        wrap = partial(fill, width=console.width, subsequent_indent=" " * 8,
                       break_long_words=False, break_on_hyphens=False)  # fmt: skip
        lines = [wrap(line) for line in lines]
    console.print("\n".join(lines), style=style, markup=False, highlight=False, emoji=False,
                  soft_wrap=True)  # fmt: skip


class Bar:
    """Progress of one piece of work: a bar on a terminal, elsewhere a line now and then.

    Without a `total` it only shows activity, and the text of a muted library's own bar.
    """

    def __init__(
        self, what: str, total: int | None = None, unit: str = "", done: int = 0, shown: bool = True
    ) -> None:
        """`done`: how much was done before; `shown`: false in all but the first process."""
        self.what, self.total, self.unit, self.shown = what, total, unit, shown
        self.done = self.first = done
        self.note = ""
        self.began = self.said = monotonic()
        self.task: Task | None = None

    def __enter__(self) -> "Bar":
        """Show the bar."""
        if self.shown and out.is_interactive:
            if not _bars:
                _write_directly(out, sys.__stdout__)  # the filter of run_cli would escape a bar
                _progress().start()
            _bars.append(self)
            add = _progress().add_task
            task_id = add(self.what, total=self.total, completed=self.done, bar=self)
            self.task = next(task for task in _progress().tasks if task.id == task_id)
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar; the caller prints the final line."""
        if self.task:
            _progress().remove_task(self.task.id)
            _bars.remove(self)
            self.task = None
            if not _bars:
                _progress().stop()

    def step(self, by: int = 1, note: str = "") -> None:
        """Add `by` to what is done; `note` is shown after the numbers."""
        self.done, self.note = self.done + by, note or self.note
        now = monotonic()
        if self.task:
            self.task.completed = self.done
        # every half minute in the first five minutes, every hour after ten hours
        elif self.shown and now - self.said > max(30, (now - self.began) / 10):
            self.said = now
            say(f"{self.what}: {self.state()}")

    def state(self) -> str:
        """Return how much is done, the time taken, and an estimate of the time left."""
        seconds = monotonic() - self.began
        parts = [_clock(seconds), self.note]
        if self.total and self.first < self.done < self.total:
            seconds_left = seconds / (self.done - self.first) * (self.total - self.done)
            parts.insert(1, f"{_clock(seconds_left)} left")
        if self.unit:
            of_total = f"/{self.total:,}" if self.total and self.done < self.total else ""
            parts.insert(0, f"{self.done:,}{of_total} {self.unit}")
        return ", ".join(filter(None, parts))


def track(rows: Iterable[Row], what: str, unit: str) -> Iterator[Row]:
    """Yield the rows, and count them in a bar."""
    with Bar(what, unit=unit) as bar:
        for row in rows:
            yield row
            bar.step()


class _State(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.fields["bar"].state(), no_wrap=True, overflow="ellipsis")


@cache
def _progress() -> Progress:
    bars = Progress(
        TextColumn("{task.description}"), BarColumn(10), _State(), console=out, transient=True,
        refresh_per_second=4, redirect_stdout=not _muted, redirect_stderr=not _muted,
    )  # fmt: skip
    atexit.register(bars.stop)  # restores the cursor
    return bars


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _write_directly(console: Console, stream: IO[str] | None) -> None:
    if stream:
        file = open(  # noqa: SIM115 - for the whole process
            stream.fileno(), "w", 1, "utf-8", "backslashreplace", closefd=False
        )
        console.file = file


# ---- muting ----


def mute() -> None:
    """Hide everything that is printed or logged from now on, except our own lines.

    An exception that ends a thread or the process shows the last hidden lines, and the text of a
    `SystemExit` is printed. Output before `os._exit` or a fatal signal is lost.
    """
    process_id = os.getpid()
    _progress.cache_clear()  # the next one must not redirect sys.stdout
    logging.getLogger().setLevel(logging.WARNING)  # scripts/cli.py had set another level
    sys.excepthook = partial(_unmute_and_report, sys.excepthook)  # until the plugin sets its own
    threading.excepthook = partial(_unmute_and_report, threading.excepthook)

    def write(console: Console, text: str) -> int:
        if os.getpid() != process_id:  # a forked worker: its copy of a lock may stay locked
            return len(text)
        if not sys._getframe().f_back:  # the interpreter, printing a `SystemExit`
            return console.file.write(printable(text))
        if "\r" not in text:
            _hidden_texts.append(text)
        elif _bars and _bars[-1].total is None:
            line = re.sub(r"\|[^|]*\|", "", text.rpartition("\r")[2])  # tqdm's text
            _bars[-1].note = " ".join(line.split())
        return len(text)

    for console, stream in ((out, sys.__stdout__), (err, sys.__stderr__)):
        if stream:  # logging handlers hold the same object
            _write_directly(console, stream)
            stream.write = partial(write, console)  # type: ignore[method-assign]
            _muted.append(stream)


def _unmute_and_report(hook: Callable[..., object], *error: object) -> None:
    unmute(30)
    hook(*error)


def unmute(lines: int) -> None:
    """Show output again, and print the last `lines` hidden lines."""
    if _muted:
        if _bars:
            _progress().stop()
        say("\n".join("".join(_hidden_texts).splitlines()[-lines:]), error=True)
        while _muted:
            del _muted.pop().write
