"""Every command in README.md, CONTRIBUTING.md and docs/ exists: its module, flags and recipe."""

import re
import shlex
import sys
from functools import cache

import pytest

from tests.conftest import ROOT, command

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LAUNCHERS = ("accelerate", "torchrun")
LAUNCHER_FLAGS = {  # flags that accelerate and torchrun read themselves
    "--config_file", "--machine_rank", "--main_process_ip", "--num_processes", "--nproc-per-node",
    "--nnodes", "--rdzv-backend", "--rdzv-endpoint", "--rdzv-id",
}  # fmt: skip
STARTS = re.compile(r"(?:[A-Z_]+=\S+ )*(?:python|accelerate launch|torchrun) ")


def commands() -> list[str]:
    """Return the commands in code blocks and code spans, with continued lines joined."""
    found = []
    for page in PAGES:
        text = page.read_text("utf-8").replace("\\\n", " ")
        blocks = [line.strip() for line in text.splitlines() if line.startswith("    ")]
        spans = re.findall(r"`([^`\n]+)`", text)
        found += [part for part in (*blocks, *spans) if STARTS.match(part)]
    found = [command for command in found if "convert_hf_to_gguf" not in command]  # llama.cpp's
    found.remove("accelerate launch --cpu --num_processes 2")  # a warning, not advice
    return sorted({re.sub(r"\s+#.*", "", command).strip() for command in found})


def test_commands_are_found() -> None:
    assert len(commands()) > 15
    assert any(command.startswith("accelerate launch -m axolotl") for command in commands())


@cache
def help_of(*target: str) -> str:
    done = command("python" if target[0] == "-m" else sys.executable, *target, "--help")
    assert done.returncode == 0, f"{target}: {done.stderr[-1000:]}"
    return done.stdout


@pytest.mark.parametrize("command", commands())
def test_module_flags_and_recipe_exist(command: str) -> None:
    words = [
        word for word in shlex.split(command.replace("…", "")) if "=" not in word.split("/")[0]
    ]
    for word in words:
        if word.startswith("recipes/"):
            assert (ROOT / word).is_file(), word
    flags = [word for word in words if word.startswith("--")]
    if words[0] in LAUNCHERS:
        module = words[words.index("-m") + 1] if "-m" in words else ""
        assert module in ("axolotl.cli.train", "eval.run"), command
        flags = [flag for flag in flags if flag not in LAUNCHER_FLAGS]
    else:
        target = words[1:3] if words[1] == "-m" else words[1:2]
        module = target[-1]
        if not module.startswith("axolotl"):
            known = help_of(*target)
            if module != "scripts.dry_run":  # it passes unknown flags to Axolotl
                whole = set(re.findall(r"--[\w-]+", known))
                assert [flag for flag in flags if flag not in whole] == []
            return
    from axolotl.utils.schemas.config import AxolotlInputConfig

    assert [f for f in flags if f[2:].split("__")[0] not in AxolotlInputConfig.model_fields] == []
