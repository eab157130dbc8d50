"""Run commands in forks of a process that has already imported their packages, to save time.

A fork runs `python -m MODULE`, `python -c CODE` or the command that `accelerate launch -m MODULE`
starts, with its own process, session, environment, working directory, output and exit code.
"""

import atexit
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parent.parent
PIPE = subprocess.PIPE
IMPORTED = (
    "training.plugin", "eval.generate", "accelerate.commands.launch", "axolotl.cli.config",
    "axolotl.common.datasets", "axolotl.core.builders", "axolotl.core.trainers", "axolotl.loaders",
    "axolotl.train", "axolotl.utils.data", "rouge_score.rouge_scorer", "bitsandbytes", "peft",
    "transformers.models.llama.modeling_llama", "transformers.models.mistral.modeling_mistral",
    "transformers.models.auto.modeling_auto", "transformers.trainer", "sentencex", "fire",
)  # fmt: skip
_server: list[subprocess.Popen[bytes]] = []  # of this test worker, started by its first command


class Fork:
    """A started command; only one can run at a time. `pid` is also the id of its process group."""

    def __init__(
        self, words: Sequence[object], cwd: Path = ROOT, env: Mapping[str, str] = os.environ
    ):
        if not _server:
            start = [sys.executable, "-m", "tests.forks"]
            _server.append(subprocess.Popen(start, 0, cwd=ROOT, stdin=PIPE, stdout=PIPE))
        assert _server[0].stdin and _server[0].stdout
        self.words, self.answers = [str(word) for word in words], _server[0].stdout
        self.logs = tempfile.TemporaryDirectory()
        self.code: int | None = None
        call = {"words": self.words, "cwd": str(cwd), "env": dict(env), "logs": self.logs.name}
        _server[0].stdin.write(f"{json.dumps(call)}\n".encode())
        self.pid = int(self.answers.readline())

    def poll(self, seconds: float = 0) -> int | None:
        """Return the exit code, after waiting up to `seconds`; None if it is still running."""
        if self.code is None and select.select([self.answers], [], [], seconds)[0]:
            self.code = int(self.answers.readline())
        return self.code

    def finish(self, timeout: float) -> subprocess.CompletedProcess[str]:
        """Return its output and exit code; kill it after `timeout` and raise TimeoutExpired."""
        ended = self.poll(timeout) is not None
        if not ended:
            os.killpg(self.pid, signal.SIGKILL)
        while self.poll(1) is None:
            pass
        with self.logs:
            out, err = (
                Path(self.logs.name, name).read_text("utf-8", "replace") for name in ("out", "err")
            )
        if not ended:
            raise subprocess.TimeoutExpired(self.words, timeout, out, err)
        return subprocess.CompletedProcess(self.words, self.code or 0, out, err)


def run(
    words: Sequence[object],
    *,
    cwd: Path = ROOT,
    env: Mapping[str, str] = os.environ,
    timeout: float = 900,
) -> subprocess.CompletedProcess[str]:
    """Like `subprocess.run` with `python -m MODULE ...` or `accelerate launch -m MODULE ...`."""
    return Fork(words, cwd, env).finish(timeout)


def main() -> None:
    """Run each command read from standard input; print its process id, then its exit code."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # imports may print to stdout
    for module in IMPORTED:
        importlib.import_module(module)
    for line in sys.stdin:
        sys.stdout.flush()
        if not (child := os.fork()):
            _become(json.loads(line))
        print(child, file=answers, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


def _become(call: dict[str, Any]) -> NoReturn:
    """Run a command in this process, then exit as Python would."""
    os.setsid()
    os.chdir(call["cwd"])
    os.environ.clear()
    os.environ.update(call["env"])
    importlib.reload(sys.modules["huggingface_hub.constants"])  # it reads os.environ on import
    for place, name in enumerate(("in", "out", "err")):
        os.dup2(os.open(os.path.join(call["logs"], name), os.O_CREAT | os.O_RDWR), place)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    words, code = call["words"], 0
    try:
        if Path(words[0]).name == "accelerate":
            words = _launched(words)
        _, flag, what, *_ = words
        sys.argv, sys.path[0] = ["-c" if flag == "-c" else what, *words[3:]], call["cwd"]
        more = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        sys.path[1:1] = [folder for folder in more if folder and folder not in sys.path]
        warnings.filterwarnings("ignore", message=".*found in sys.modules after import")
        if flag == "-c":
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_module(what, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if stop.code and not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)
    except BaseException:
        code = 1  # unless the Axolotl plugin's hook exits with another
        try:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        except SystemExit as stop:
            code = int(stop.code or 0)
    finally:
        with suppress(ValueError):  # absl closes the stream it logs to
            sys.stdout.flush()
            sys.stderr.flush()
        atexit._run_exitfuncs()
        os._exit(code)


def _launched(words: list[str]) -> list[str]:
    """Return the command that `accelerate launch` would start, and set its environment."""
    from accelerate.commands import launch

    given = launch.launch_command_parser().parse_args(words[2:])
    args, *_ = launch._validate_launch_command(given)
    command, env = launch.prepare_simple_launcher_cmd_env(args)
    os.environ.update(env)
    return [str(word) for word in command]


if __name__ == "__main__":
    main()
