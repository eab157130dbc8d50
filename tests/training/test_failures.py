"""Errors of a training that the user can mend: one line, code 2, no traceback."""

import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from data_prep.hub import look_at_weights
from data_prep.prepare import prepare
from data_prep.recipe import Recipe, load_recipe
from tests.conftest import ROOT, derived_recipe, launch
from training.failures import in_words, smaller

CUDA = "CUDA out of memory. Tried to allocate 1.95 GiB. GPU 0 has a total capacity of 39.39 GiB"


def recipe_of(model: object, folder: Path, **keys: object) -> Recipe:
    return load_recipe(derived_recipe("smollm2_samsum", folder, "r", base_model=str(model), **keys))


def test_out_of_memory_names_three_keys_in_order(tmp_path: Path) -> None:
    recipe = load_recipe(ROOT / "recipes/smollm2_samsum.yml")
    words = in_words(recipe, torch.OutOfMemoryError(CUDA))
    assert words and words.startswith(f"{recipe.path}: memory ran out (1.95 GiB more were wanted)")
    first, second, third = (words.index(f"{n}. ") for n in (1, 2, 3))
    assert "`micro_batch_size: 2` with `gradient_accumulation_steps: 2`" in words[first:second]
    assert "`gradient_checkpointing: true`" in words[second:third]
    assert "`adapter: qlora` with `load_in_4bit: true`" in words[third:] and "4. " not in words


def test_what_a_recipe_saves_already_is_not_named() -> None:
    saving = {"micro_batch_size": 1, "gradient_checkpointing": True, "load_in_4bit": True,
              "sequence_len": 2048, "optimizer": "adamw_8bit"}  # fmt: skip
    assert [step.split(" ")[0] for step in smaller(saving)] == ["`sequence_len:", "a"]


def test_other_errors_keep_their_traceback() -> None:
    recipe = load_recipe(ROOT / "recipes/smollm2_samsum.yml")
    for error in (RuntimeError("shape mismatch"), OSError(28, "No space left"), KeyError("x")):
        assert in_words(recipe, error) is None


STARVING = """
import resource
from axolotl.integrations.base import BasePlugin

class StarvingPlugin(BasePlugin):
    def post_trainer_create(self, cfg, trainer):
        pages = int(open("/proc/self/statm").read().split()[0])
        limit = pages * resource.getpagesize() + (200 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_a_training_that_runs_out_of_memory_says_so_in_one_line(
    tmp_path: Path, tiny_smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real shortage: from the trainer on the system gives 200 MiB, and the logits need more."""
    (tmp_path / "starving.py").write_text(STARVING, "utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path}")
    monkeypatch.syspath_prepend(tmp_path)
    ours = "training.plugin.SummarizationPlugin"
    recipe = recipe_of(
        tiny_smollm2, tmp_path, bf16=False, plugins=[ours, "starving.StarvingPlugin"]
    )
    prepare(recipe)
    done = launch(recipe.path)
    assert done.returncode, done.stdout[-3000:]
    (line,) = (text for text in done.stderr.splitlines() if text.startswith("error: "))
    assert "memory ran out" in line and "1. `micro_batch_size: 2`" in line
    assert "returned non-zero exit status 2" in done.stderr
    assert "RuntimeError" not in done.stderr


@pytest.fixture
def sharded(tiny_smollm2: Path, tmp_path: Path) -> Path:
    """The tiny model in several files, as large models come."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "sharded"
    shutil.copytree(tiny_smollm2, folder)
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(tiny_smollm2).save_pretrained(folder, max_shard_size="2MB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    return folder


def test_whole_weights(sharded: Path, tiny_smollm2: Path, tmp_path: Path) -> None:
    count = len(list(sharded.glob("model-*.safetensors")))
    problems, line = look_at_weights(recipe_of(sharded, tmp_path))
    assert problems == [] and line == f"{sharded}: {count} file(s) of weights, all whole"
    assert look_at_weights(recipe_of(tiny_smollm2, tmp_path))[0] == []


def test_half_of_a_download(sharded: Path, tmp_path: Path) -> None:
    recipe = recipe_of(sharded, tmp_path)
    first = min(sharded.glob("model-*.safetensors"))
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    ((problem,), _) = look_at_weights(recipe)
    assert f"{first.name} is cut short; copy the folder again" in problem
    first.unlink()
    ((problem,), _) = look_at_weights(recipe)
    assert f"half of a download: {first.name} missing; copy the folder again" in problem
    (sharded / "model.safetensors.index.json").write_text("{", "utf-8")
    ((problem,), _) = look_at_weights(recipe)
    assert "model.safetensors.index.json is damaged" in problem


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does for a gated and for an unknown model."""

    def do_HEAD(self) -> None:
        gated = "gated" in self.path
        self.send_response(403 if gated else 401)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize(
    ("model", "offline", "said"),
    [
        (
            "owner/gated",
            "0",
            "it is gated, and this account has no access); accept its licence at ",
        ),
        ("owner/unknown", "0", "the hub knows no such model, or it is private); correct the name"),
        ("owner/gated", "1", "the hub is offline, and its cache lacks files of it); run `hf "),
    ],
)
def test_models_that_the_hub_does_not_give(
    model: str, offline: str, said: str, hub: str, tmp_path: Path
) -> None:
    """Through preflight and the hub's real client, which asks a server of the test's own."""
    path = derived_recipe("smollm2_samsum", tmp_path, "r", base_model=model)
    prepare(load_recipe(path))
    env = {**os.environ, "HF_ENDPOINT": hub, "HF_HUB_OFFLINE": offline, "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "training.preflight", path],
        cwd=ROOT, env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr[-2000:]
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"1. {path}: base_model {model} cannot be loaded (") and said in last
    assert "Traceback" not in done.stderr


def test_weights_cut_short_are_one_line_in_evaluation_too(
    tiny_smollm2: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(tiny_smollm2, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    recipe = recipe_of(folder, tmp_path)
    prepare(recipe)
    done = subprocess.run(
        [sys.executable, "-m", "eval.run", recipe.path, "--models", "base", "--limit", "1",
         "--output", tmp_path / "results"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "its weights are cut short); copy or download the folder again" in done.stderr
    assert not list((tmp_path / "results").glob("*.json"))
