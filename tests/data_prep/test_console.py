"""Console output: plain lines in a pipe, a bar on a terminal, muted libraries."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep import console
from data_prep.console import Bar, say
from tests.conftest import ROOT, command

SCRIPT = """
import logging, os, sys, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of the fork below
from data_prep.console import Bar, mute, say, unmute
from data_prep.errors import run_cli

def main():
    say("Heading", "bold red")
    with Bar("train", 4, "rows") as bar:
        bar.step(2, "loss 1.5")
        time.sleep(0.6)  # the bar is drawn four times a second
        say("above " + "the bar " * 12)
    logging.basicConfig(stream=sys.stdout)
    mute()
    with Bar("starting") as bar:
        print("hidden")
        logging.warning("hidden too")
        sys.stderr.write("\\rLoading:  50%|###  | 1/2 [00:00<00:01]")
        say(f"note: {bar.note}", error=True)
        if not os.fork():
            print("of a worker")
            os._exit(0)
        os.wait()
    unmute(1)
    print("the end")

run_cli(main)
"""


def on_a_terminal(**environment: str) -> str:
    """Return what the script writes to a terminal of 80 columns."""
    process, terminal = pty.fork()
    if not process:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80"}
        os.execve(sys.executable, [sys.executable, "-c", SCRIPT], {**env, **environment})
    said = b""
    while True:
        try:
            said += os.read(terminal, 65536)
        except OSError:  # on Linux: the other end is closed
            os.waitpid(process, 0)
            return said.decode().replace("\r\n", "\n")


def test_a_pipe_gets_plain_lines_and_no_bar() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=True
    )
    above = "above " + "the bar " * 12
    assert done.stdout == f"Heading\n{above}\nthe end\n"
    assert done.stderr == "note: \nWARNING:root:hidden too\n"


def test_a_terminal_gets_a_temporary_bar_and_wrapped_lines() -> None:
    said = on_a_terminal()
    assert "\x1b[1;31mHeading" in said
    assert re.search(r"2/4 rows, 0:00:0\d, 0:00:0\d left, loss 1\.5", said)
    assert f"above{' the bar' * 9}\n       {' the bar' * 3}\n" in said
    assert "note: Loading: 50% 1/2 [00:00<00:01]\n" in said
    assert said.count("hidden") == 1 and "of a worker" not in said  # only the last line is shown
    assert said.endswith("the end\n") and said.count("\x1b[?25l") == said.count("\x1b[?25h")
    assert "31mHeading" not in on_a_terminal(NO_COLOR="1")


def test_control_characters_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\x1b[2J\u202eb\n\tc")
    assert capsys.readouterr().out == "a\\u001b[2J\\u202eb\n        c\n"


def test_a_log_gets_progress_lines_at_growing_intervals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0]
    monkeypatch.setattr(console, "monotonic", lambda: now[0])
    with Bar("training", 3600, "steps", 600) as bar, Bar("other process", shown=False) as other:
        for now[0] in range(10, 3010, 10):
            bar.step(10, "loss 1.5")
            other.step()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "training: 640/3,600 steps, 0:00:40, 0:49:20 left, loss 1.5"
    assert 10 < len(lines) < 35 and not any("other" in line for line in lines)


def test_verbose_is_a_flag_of_every_command(tmp_path: Path) -> None:
    code = "from data_prep import console, errors\n" \
        "errors.run_cli(lambda: print(console.verbose(), errors.sys.argv[1:]))"  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT), "SAMSUM_LORA_VERBOSE": ""}
    for flags, found in (
        (["--verbose", "r.yml"], "True ['r.yml']"),
        (["r.yml"], "False ['r.yml']"),
    ):
        line = [sys.executable, "-c", code, *flags]
        assert subprocess.run(line, env=env, capture_output=True, text=True).stdout == f"{found}\n"


@pytest.mark.parametrize(
    ("ending", "code", "last", "all_shown"),
    [
        ("raise KeyError('x')", 1, "KeyError: 'x'\n", True),
        ("t = Thread(target={}.pop, args='x'); t.start(); t.join()", 0, "KeyError: 'x'\n", True),
        ("raise SystemExit('why')", 1, "why\n", False),
        ("sys.exit(3)", 3, "", False),
    ],
)
def test_an_error_while_muted_is_shown(ending: str, code: int, last: str, all_shown: bool) -> None:
    start = "import sys; from threading import Thread; from data_prep import console"
    done = command(sys.executable, "-c", f"{start}; console.mute(); print('muted'); {ending}")
    assert done.returncode == code and done.stderr.endswith(last) and not done.stdout
    assert ("muted\n" in done.stderr) == all_shown and (all_shown or done.stderr == last)
