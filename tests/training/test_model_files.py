"""Base models with missing, truncated or inaccessible files: one line that says what to do."""

import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_prep.hub import check_weights, is_complete_file
from data_prep.prepare import prepare
from data_prep.recipe import Recipe, load_recipe
from tests import forks
from tests.conftest import command, derived_recipe


def recipe_of(model: object, folder: Path) -> Recipe:
    return load_recipe(derived_recipe("smollm2_samsum", folder, "r", base_model=str(model)))


@pytest.fixture
def sharded(tiny_smollm2: Path, tmp_path: Path) -> Path:
    """The tiny model split into several files, like a large model."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "sharded"
    shutil.copytree(tiny_smollm2, folder)
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(tiny_smollm2).save_pretrained(
        folder, max_shard_size="300KB"
    )
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    return folder


def test_complete_weights(sharded: Path, tiny_smollm2: Path, tmp_path: Path) -> None:
    count = len(list(sharded.glob("model-*.safetensors")))
    problems, line = check_weights(recipe_of(sharded, tmp_path))
    assert problems == [] and line == f"{sharded}: {count} weight file(s), all complete"
    assert check_weights(recipe_of(tiny_smollm2, tmp_path))[0] == []


def test_only_a_pickle_written_by_torch_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    assert is_complete_file(path)
    path.write_bytes(b"\x80\x02garbage")
    assert not is_complete_file(path)


def test_an_incomplete_download_is_reported(sharded: Path, tmp_path: Path) -> None:
    recipe = recipe_of(sharded, tmp_path)
    first = min(sharded.glob("model-*.safetensors"))
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    ((problem,), _) = check_weights(recipe)
    assert f"{first.name} is truncated or damaged; copy the folder again" in problem
    first.unlink()
    ((problem,), _) = check_weights(recipe)
    assert f"incomplete download: {first.name} missing; copy the folder again" in problem
    (sharded / "model.safetensors.index.json").write_text("{", "utf-8")
    ((problem,), _) = check_weights(recipe)
    assert "model.safetensors.index.json: cannot be read" in problem


def test_weights_saved_by_torch(tiny_smollm2: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_smollm2, tmp_path / "bin"))
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert check_weights(recipe_of(folder, tmp_path)) == (
        [], f"{folder}: 1 weight file(s), all complete")  # fmt: skip
    whole = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(whole[:-1000])
    ((problem,), _) = check_weights(recipe_of(folder, tmp_path))
    assert "pytorch_model.bin is truncated or damaged; copy the folder again" in problem


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers like the Hub for a gated and for an unknown model."""

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
        ("owner/gated", "0", "this account has no access); accept its licence at "),
        ("owner/unknown", "0", "the Hub has no such model, or it is private); correct the name"),
        ("owner/gated", "1", "the Hub is not reachable, and its cache lacks files of the "),
    ],
)
def test_models_that_the_hub_refuses(
    model: str, offline: str, said: str, hub: str, tmp_path: Path
) -> None:
    """With preflight and the Hub's real client, which asks a local server."""
    path = derived_recipe("smollm2_samsum", tmp_path, "r", base_model=model)
    prepare(load_recipe(path))
    env = {**os.environ, "HF_ENDPOINT": hub, "HF_HUB_OFFLINE": offline, "HF_HOME": str(tmp_path)}
    done = forks.run(["python", "-m", "training.preflight", path], env=env)
    assert done.returncode == 2, done.stderr[-2000:]
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"1. {path}: base_model {model} cannot be loaded (") and said in last
    assert "Traceback" not in done.stderr


def test_truncated_weights_give_one_line_in_evaluation_too(
    tiny_smollm2: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(tiny_smollm2, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    recipe = recipe_of(folder, tmp_path)
    prepare(recipe)
    done = command("python", "-m", "eval.run", recipe.path, "--models", "base", "--limit", 1,
                   "--output", tmp_path / "results")  # fmt: skip
    assert done.returncode == 2
    assert "its weights are truncated); copy or download the folder again" in done.stderr
    assert not list((tmp_path / "results").glob("*.json"))
