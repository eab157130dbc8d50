"""No command connects to another machine unless its recipe asks for it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chat.page import bind
from tests.conftest import ROOT
from tests.run_records import NAME

# variables that could keep the packages from connecting or hide that they do
REMOVED = re.compile(
    "HF_.*|HUGGING.*|TRANSFORMERS_.*|AXOLOTL_.*|DO_NOT_TRACK|LOCAL_KERNELS|WANDB_.*|.*_proxy", re.I
)
RECIPE = f"{NAME}.yml"
PREDICTIONS = f"results/{NAME}/predictions.base.jsonl"
COMMANDS = [
    ["data_prep", RECIPE],
    ["training.preflight", RECIPE],
    ["eval.run", RECIPE, "--limit", "1"],
    ["eval.score", "--predictions", PREDICTIONS, "--workers", "2"],
    ["chat.summarize", RECIPE, "chat.txt"],
    ["scripts.publish", RECIPE, "--repo", "user/name"],
]
# First an import as in a notebook, then all commands as `python -m` runs them; the page comes last,
# because Ctrl-C ends its process.
SESSION = f"""
import eval.hf_engine
import json, os, runpy, signal, sys, threading, time, urllib.request
import bitsandbytes, kernels
assert bitsandbytes.functional.has_avx512bf16()
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it

def run(module, *args):
    print("#", module, flush=True)
    sys.argv = [module, *args]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        assert not end.code, (module, end.code)

def ask():
    question = json.dumps({{"model": "tuned", "dialogue": "A: hi"}}).encode()
    request = urllib.request.Request(
        "http://localhost:" + port + "/summary", question, {{"Content-Type": "application/json"}})
    for _ in range(600):
        try:
            print(urllib.request.urlopen(request).read(), flush=True)
            break
        except OSError:
            time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)

port = sys.argv[1]
for command in {COMMANDS}:
    run(*command)
wanted = open(os.environ["CONNECTIONS"]).read()

os.environ.pop("LOCAL_KERNELS")  # without it, importing bitsandbytes connects
try:
    kernels.get_kernel("kernels-community/quantization-bitsandbytes", version=1)
except Exception:
    pass
assert "huggingface.co" in open(os.environ["CONNECTIONS"]).read()
open(os.environ["CONNECTIONS"], "w").write(wanted)
threading.Thread(target=ask).start()
run("chat.page", {RECIPE!r}, "--port", port)
"""


def watched(
    folder: Path, code: str, *args: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run Python code; return the process and the connections that it and its children tried."""
    hook, noted = folder / "hook", folder / "connections.txt"
    hook.mkdir()
    noted.touch()
    shutil.copy(Path(__file__).with_name("connections.py"), hook / "sitecustomize.py")
    env = {key: value for key, value in os.environ.items() if not REMOVED.fullmatch(key)}
    env |= {"PYTHONPATH": f"{hook}{os.pathsep}{ROOT}", "CONNECTIONS": str(noted)}
    env |= {"HF_HOME": str(folder / "hf")}  # an empty cache
    done = subprocess.run(
        [sys.executable, "-c", code, *args], cwd=folder, env=env, capture_output=True, text=True
    )
    return done, noted.read_text("utf-8").splitlines()


@pytest.mark.slow
def test_commands_connect_to_nothing_that_the_recipe_does_not_name(run: Path) -> None:
    """The recipe uses a local model and local data; the page makes a summary too."""
    (run / "chat.txt").write_text("Anna: are you coming?\nBen: yes, at 8\n", "utf-8")
    with bind("127.0.0.1", 0) as free:
        port = str(free.getsockname()[1])
    done, connections = watched(run, SESSION, port)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert '"error":""' in done.stdout and "new tokens" in done.stdout
    assert connections == []


def test_the_hook_sees_every_kind_of_connection_also_in_children(tmp_path: Path) -> None:
    ways = """
import socket, subprocess, sys, urllib.request
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number, connect in enumerate([
    lambda: socket.create_connection(("name.example", 80)),
    lambda: socket.gethostbyname("old.example"),
    lambda: socket.socket().connect(("192.0.2.1", 80)),
    lambda: socket.socket().connect_ex(("192.0.2.2", 80)),
    lambda: udp.sendto(b"x", ("192.0.2.3", 53)),
    lambda: udp.sendmsg([b"x"], [], 0, ("192.0.2.4", 53)),
    lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80)),
    lambda: urllib.request.urlopen("http://library.example"),
    lambda: __import__("httpx").get("https://client.example"),
    lambda: subprocess.run([sys.executable, "-c",
        "import socket; socket.getaddrinfo('child.example', 1)"], check=True, stderr=-3),
]):
    try:
        connect()
        print("was let through:", number)
    except Exception:
        pass
here = socket.create_server(("127.0.0.1", 0))
socket.create_connection(here.getsockname())  # connections to this machine are allowed
"""
    done, connections = watched(tmp_path, ways)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert [line.split()[1] for line in connections] == [
        "name.example", "old.example", *(f"192.0.2.{n}" for n in (1, 2, 3, 4)), "2001:db8::1",
        "library.example", "client.example", "child.example",
    ]  # fmt: skip


@pytest.mark.parametrize("package", ["data_prep", "eval", "training", "chat", "scripts"])
def test_importing_any_of_our_packages_prevents_the_download(package: str, tmp_path: Path) -> None:
    asking = f"import {package}, os; print(os.environ['LOCAL_KERNELS'])"
    done, _ = watched(tmp_path, asking)
    assert "quantization-bitsandbytes=/nonexistent" in done.stdout, done.stderr
