"""Files that other programs read: Docker, editors, GitHub, pre-commit, Ollama and Colab."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient
from tokenizers import Tokenizer

from data_prep.prompt import Example, PromptEncoder
from data_prep.recipe import load_recipe
from tests.conftest import ROOT

GGUF = (ROOT / "docs/gguf.md").read_text("utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


def test_workflow_and_hooks_run_the_commands_of_make_and_ci() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    assert workflow["jobs"]["test-all"]["steps"][-1] == {"run": "bash .ci/run"}
    assert (ROOT / ".ci/run").is_file()
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"][0]
    lint = re.findall(r"\$\(PY\) (-m (?:ruff|mypy).*)", (ROOT / "Makefile").read_text("utf-8"))
    assert [hook["entry"] for hook in hooks["hooks"]] == [
        f"python {line.removesuffix(' .')}" for line in lint
    ]


def test_the_image_has_a_non_root_user_and_the_dev_container_uses_it() -> None:
    user = re.findall(r"^USER (\w+)", DOCKERFILE, re.M)[-1]
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text("utf-8"))
    assert user == container["remoteUser"] != "root"
    assert (ROOT / ".devcontainer" / container["build"]["dockerfile"]).samefile(ROOT / "Dockerfile")
    assert set(container["build"]["args"]) <= set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.M))
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert {".git/config", "data", "models", "outputs", "results/*"} <= set(ignored)


CPU = ["-m pip install torch==2.13.0+cpu"]
UV = "pip install --python BIN/python"
OTHER = "--reinstall-package torch torch==2.13.0"
NEW_CARD = "echo NVIDIA A100, 580.65.06; echo NVIDIA A100, 580.65.06"


@pytest.mark.parametrize(
    ("nvidia_smi", "installed", "settings", "torch", "fails"),
    [
        ("exit 9", "none", {}, CPU, False),
        ("exit 9", "cpu", {}, [], False),
        ("exit 9", "none", {"DEVICE": "cpu"}, CPU, False),
        ("echo NVIDIA-SMI has failed; exit 9", "none", {}, CPU, False),  # on stdout
        ("exit 9", "none", {"DEVICE": "cuda"}, [], False),
        ("exit 9", "none", {"DEVICE": "cuda", "UV_TORCH_BACKEND": "cu126"},
         [f"{UV} --torch-backend cu126 {OTHER}"], False),
        (NEW_CARD, "none", {}, [], True),  # the fake uv installs nothing
        (NEW_CARD, "cuda", {}, [], False),
        (NEW_CARD, "cpu", {}, [f"{UV} {OTHER}"], True),
        (NEW_CARD, "cuda", {"UV_TORCH_BACKEND": "cu126"},
         [f"{UV} --torch-backend cu126 {OTHER}"], False),
        ("echo Tesla T4, 550.54.15", "none", {}, [f"{UV} --torch-backend auto {OTHER}"], True),
        ("echo Tesla T4, 550.54.15", "cuda", {}, [], False),
    ],
)  # fmt: skip
def test_setup_installs_the_build_of_torch_for_the_card_and_its_driver(
    nvidia_smi: str,
    installed: str,
    settings: dict[str, str],
    torch: list[str],
    fails: bool,
    tmp_path: Path,
) -> None:
    """With a fake interpreter and uv that log their arguments; here is no card."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    log = f'echo "$@" >> {bin_}/log'
    no_gpu, no_torch = installed != "cuda", installed == "none"
    for name, line in {
        "python": f'case "$*" in *cuda.init*) echo no GPU; exit {no_gpu:d} ;; '
        f'*"import torch"*) exit {no_torch:d} ;; *) {log} ;; esac',
        "uv": log,
        "nvidia-smi": nvidia_smi,
    }.items():
        (bin_ / name).write_text(f"#!/bin/sh\n{line}\n")
        (bin_ / name).chmod(0o755)
    env = {"PATH": f"{bin_}:{os.environ['PATH']}", **settings}
    command = ["sh", "scripts/setup.sh", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    lines = (bin_ / "log").read_text().replace(str(bin_), "BIN").splitlines()
    asked = [line for line in lines if " install " in line and not line.endswith(" uv")]
    assert asked == [*torch, f"{UV} --editable ."]
    assert done.returncode == 2 * fails, done.stderr
    assert ("(CUDA 13 needs 580 or newer): no GPU" in done.stderr) is fails


def test_setup_finishes_an_environment_that_was_left_half_made(tmp_path: Path) -> None:
    """As Debian's Python without python3-venv leaves it: an interpreter, but no pip."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    script = (ROOT / "scripts/setup.sh").read_text("utf-8").split("log=$venv")[0]
    subprocess.run(["sh", "-c", script, "setup.sh", tmp_path], check=True)
    subprocess.run([tmp_path / "bin/python", "-m", "pip", "--version"], check=True)


def test_the_ollama_template_gives_the_prompt_of_training(smollm2: Path) -> None:
    """The Modelfile's template writes the same text around a dialogue as the chat template."""
    modelfile = GGUF.split("```\nFROM")[1].split("```")[0]
    template = re.search(r'TEMPLATE """(.*?)"""', modelfile, re.S)
    recipe = load_recipe(ROOT / "recipes/smollm2_samsum.yml")
    block = recipe.summarization
    example = Example.build("", "Ana: hi\nBo: yes", "", block.instruction)
    encoder = PromptEncoder(recipe)
    assert template
    ours = template[1].replace("{{ .Prompt }}", example.dialogue)
    assert encoder.tokenizer.encode(ours) == encoder.prompt_ids(example)
    assert f'stop "{encoder.tokenizer.eos_token}"' in modelfile
    assert f"num_predict {block.decoding.max_new_tokens}" in modelfile


def test_the_tokenizer_edited_for_llama_cpp_gives_the_same_ids(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copy = Path("outputs/smollm2_samsum/merged/tokenizer.json")
    copy.parent.mkdir(parents=True)
    shutil.copy(smollm2 / "tokenizer.json", copy)
    exec(GGUF.split("```python\n")[1].split("```")[0])
    one, other = Tokenizer.from_file(str(smollm2 / copy.name)), Tokenizer.from_file(str(copy))
    assert json.loads(copy.read_text("utf-8"))["model"]["byte_fallback"] is False
    for line in (ROOT / "data_prep/sample/test.jsonl").read_text("utf-8").splitlines():
        text = json.loads(line)["dialogue"]
        assert one.encode(text).ids == other.encode(text).ids
        assert other.decode(other.encode(text).ids) == text


@pytest.mark.slow
@pytest.mark.longest
def test_the_notebook_runs_on_a_cpu(
    tiny_smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run every cell in a folder that has only the demo's recipe and a tiny model."""
    shutil.copytree(tiny_smollm2, tmp_path / "models/smollm2-135m-instruct")
    (tmp_path / "recipes").mkdir()
    config = yaml.safe_load((ROOT / "recipes/smollm2_samsum.yml").read_text("utf-8"))
    config |= {"max_steps": 2, "bf16": False}
    config["summarization"]["source"] = str(ROOT / "data_prep/sample")
    (tmp_path / "recipes/smollm2_samsum.yml").write_text(yaml.safe_dump(config), "utf-8")
    card = tmp_path / "bin/nvidia-smi"
    card.parent.mkdir()
    card.write_text("#!/bin/sh\nexit 9\n")
    card.chmod(0o755)
    path = [str(card.parent), str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    book = nbformat.read(ROOT / "docs/colab.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in book.cells)
    NotebookClient(book, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in book.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in shown)
    assert "\nreference: " in printed and "\ntuned: " in printed
    page = next(output["data"]["text/html"] for output in shown if "data" in output)
    assert page.startswith('<iframe srcdoc="&lt;!DOCTYPE html') and "ROUGE-L" in page
