"""Merging: Axolotl's command on a hand-made adapter, the proof, and what is refused."""

import json
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from data_prep.recipe import Recipe, load_recipe
from data_prep.sources import sha256_of
from eval.predictions import read_predictions
from eval.scores import Scores
from tests.conftest import ROOT, command
from tests.scripts.tiny_merge import files, proof_of, run, save_adapter, tiny_recipe

pytestmark = pytest.mark.slow  # each test starts from a merge by Axolotl
SOMEWHERE = "/home/somebody/runs/7"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_smollm2: Path) -> Path:
    """The tiny model as a careless person saved it: with paths, and a wrong end of a text."""
    folder = tmp_path_factory.mktemp("models") / "careless"
    shutil.copytree(tiny_smollm2, folder)
    for name, more in (
        ("config.json", {"_name_or_path": SOMEWHERE}),
        ("generation_config.json", {"eos_token_id": 0}),
        ("tokenizer_config.json", {"name_or_path": str(folder)}),
    ):
        settings = json.loads((folder / name).read_text("utf-8"))
        (folder / name).write_text(json.dumps({**settings, **more}), "utf-8")
    (folder / "README.md").write_text(f"Made in {folder}/here\n", "utf-8")
    return folder


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory, model: Path) -> tuple[Recipe, str]:
    """The tiny recipe, merged through the command line; what that printed."""
    recipe = tiny_recipe(tmp_path_factory.mktemp("merged"), model)
    before = files(recipe.output_dir)
    done = command("python", "-m", "scripts.merge", recipe.path)
    assert done.returncode == 0, done.stderr[-3000:]
    after = {k: v for k, v in files(recipe.output_dir).items() if not k.startswith("merged/")}
    assert after == before  # training's own files
    return recipe, done.stdout


@pytest.fixture
def copy(merged: tuple[Recipe, str], tmp_path: Path) -> Recipe:
    """A copy of the merged recipe that a test may spoil."""
    recipe = merged[0]
    path = tmp_path / "tiny.yml"
    text = recipe.path.read_text("utf-8").replace(str(recipe.path.parent), str(tmp_path))
    path.write_text(text, "utf-8")
    for name in ("data", "output"):
        shutil.copytree(recipe.path.parent / name, tmp_path / name)
    return load_recipe(path)


def test_adapter_and_merged_model_are_equal(merged: tuple[Recipe, str]) -> None:
    recipe, printed = merged
    proof = proof_of(recipe.output_dir / "merged")
    assert proof["good"] is True and proof["exceeded"] == []
    assert "| matrices with the adapter's change | 6 of 6 | all | yes |" in printed
    assert "| its own chat template gives training's ids | 16 of 16 | all | yes |" in printed
    assert re.search(r"weights \(float32\): greatest difference \| 0\.\d\d steps", printed)


def test_what_is_published_holds_no_path_and_no_corpus_text(merged: tuple[Recipe, str]) -> None:
    recipe, _ = merged
    rows = [json.loads(x) for x in (recipe.data_dir / "validation.jsonl").open(encoding="utf-8")]
    for path in (recipe.output_dir / "merged").iterdir():
        text = path.read_text("utf-8", "replace")
        for word in (SOMEWHERE, str(ROOT), str(recipe.path.parent), recipe.config["base_model"]):
            assert word not in text, path.name
        assert not any(row["messages"][1]["content"] in text for row in rows)


def test_merged_folder_stops_where_training_did(merged: tuple[Recipe, str]) -> None:
    """The base model's own settings would never stop it."""
    folder = merged[0].output_dir / "merged"
    settings = json.loads((folder / "generation_config.json").read_text("utf-8"))
    assert settings["eos_token_id"] == [2, 0]


def test_second_run_only_proves(
    copy: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = copy.output_dir / "merged/model.safetensors"
    before = weights.stat().st_mtime_ns
    monkeypatch.setattr("scripts.merge._run_axolotl", lambda *_: pytest.fail("merged"))
    code, printed, _ = run(capsys, copy.path)
    assert code == 0 and "already merged from this adapter" in printed
    assert weights.stat().st_mtime_ns == before
    assert proof_of(weights.parent)["good"] is True


def test_another_adapter_sets_the_merged_folder_aside(
    copy: Recipe, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy.output_dir / "merged"
    before = files(folder)
    (copy.output_dir / ".merging").mkdir()  # of a merge that was killed
    save_adapter(model, copy, target_modules=["v_proj"])
    code, printed, error = run(capsys, copy.path)
    assert "set aside as merged-set-aside" in printed
    assert files(copy.output_dir / "merged-set-aside") == before
    assert not (copy.output_dir / ".merging").exists()
    assert code == 0, error
    assert proof_of(folder)["good"] is True


def tamper(folder: Path, by: float) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][3, 5] += by
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("as_if_merged_so", [False, True])
def test_one_changed_weight_is_refused(
    copy: Recipe, as_if_merged_so: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy.output_dir / "merged"
    tamper(folder, 1.0)
    if as_if_merged_so:
        record = json.loads((folder / "merge.json").read_text("utf-8"))
        record["files"]["model.safetensors"] = sha256_of(folder / "model.safetensors")
        (folder / "merge.json").write_text(json.dumps(record), "utf-8")
    code, printed, error = run(capsys, copy.path)
    assert code == 1
    assert error.startswith("not good: ") and "weights (float32): greatest difference" in error
    assert ("files since the merge" in error) is not as_if_merged_so
    assert ("run the same command again" in error) is not as_if_merged_so
    assert "in model.layers.1.mlp.down_proj.weight" in printed
    assert proof_of(folder)["good"] is False


def test_a_small_change_and_a_missing_tensor_are_found(
    copy: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy.output_dir / "merged"
    tamper(folder, 1e-5)
    code, _, error = run(capsys, copy.path)
    assert code == 1 and "weights" in error
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    code, _, error = run(capsys, copy.path)
    assert code == 1 and "tensors that are missing" in error


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["v_proj", "lm_head"]},
        {"target_modules": ["v_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
        {"target_modules": ["v_proj", "embed_tokens"]},
    ],
    ids=["lm_head", "modules_to_save", "LoRA on the embedding"],
)
def test_an_adapter_on_tied_embeddings_is_refused(
    copy: Recipe, model: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Axolotl merges each of the three wrongly, silently."""
    save_adapter(model, copy, **settings)
    before = files(copy.output_dir)
    code, _, error = run(capsys, copy.path)
    assert code == 2 and "embeddings of" in error and "are one matrix" in error
    assert files(copy.output_dir) == before


def test_a_merged_folder_that_was_cut_is_refused_and_no_longer_called_good(
    copy: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy.output_dir / "merged"
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5000])
    code, _, error = run(capsys, copy.path)
    assert code == 2 and "model.safetensors changed since the merge, and cannot be read" in error
    assert proof_of(folder)["good"] is False


def no_adapter(recipe: Recipe) -> None:
    (recipe.output_dir / "adapter_model.safetensors").unlink()


def other_base(recipe: Recipe) -> None:
    config = recipe.output_dir / "adapter_config.json"
    text = config.read_text("utf-8").replace(recipe.config["base_model"], "somebody/else-7b")
    config.write_text(text, "utf-8")


def other_shape(recipe: Recipe) -> None:
    weights = recipe.output_dir / "adapter_model.safetensors"
    save_file(
        {key: value[:, :3].contiguous() for key, value in load_file(weights).items()}, weights
    )


def goes_nowhere(recipe: Recipe) -> None:
    weights = recipe.output_dir / "adapter_model.safetensors"
    renamed = {k.replace(".layers.1", ".layers.9"): v for k, v in load_file(weights).items()}
    save_file(renamed, weights)


def cut(recipe: Recipe) -> None:
    weights = recipe.output_dir / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])


def stale_data(recipe: Recipe) -> None:
    (recipe.data_dir / "validation.jsonl").write_text("", "utf-8")


BAD: dict[str, tuple[Callable[[Recipe], None], str]] = {
    "no adapter": (no_adapter, "no trained adapter there; train one with"),
    "other base model": (other_base, "trained on somebody/else-7b, but the recipe's base_model"),
    "other shape": (other_shape, "does not fit"),
    "weights that go nowhere": (goes_nowhere, "does not fit"),
    "cut short": (cut, "does not fit"),
    "data changed": (stale_data, "missing or changed since it was prepared"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_nothing_is_lost(
    name: str, copy: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, words = BAD[name]
    spoil(copy)
    before = files(copy.output_dir)
    code, _, error = run(capsys, copy.path)
    assert code == 2 and error.startswith("error: ") and words in error
    assert files(copy.output_dir) == before


def test_a_full_disk_leaves_the_earlier_folder_whole(copy: Recipe) -> None:
    before = files(copy.output_dir)
    record = copy.output_dir / "adapter_config.json"
    config = json.loads(record.read_text("utf-8"))
    record.write_text(json.dumps(config, indent=3), "utf-8")  # another adapter, by its hash
    before[record.name] = sha256_of(record)
    done = subprocess.run(
        [sys.executable, "-m", "scripts.merge", str(copy.path)],
        cwd=ROOT, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
    )  # fmt: skip
    assert done.returncode == 2, done.stderr[-3000:]
    assert "merged: cannot be written (File too large); free the space" in done.stderr
    assert files(copy.output_dir) == before


def test_too_little_space_is_said_before_anything_is_written(
    copy: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = copy.output_dir / "merged/merge.json"
    save.write_text("{}", "utf-8")  # an unfinished record: it is merged again
    before = files(copy.output_dir)
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    code, _, error = run(capsys, copy.path)
    assert code == 2 and "0.0 GB are free" in error
    assert files(copy.output_dir) == before


@pytest.mark.parametrize("of", ["mistral_samsum", "mistral_samsum_qlora"])
def test_a_recipe_for_gpus_is_merged_on_a_cpu(of: str, tmp_path: Path, tiny_mistral: Path) -> None:
    """Keys that training refuses on a CPU are no hindrance; 4-bit weights are rounded alike."""
    recipe = tiny_recipe(tmp_path, tiny_mistral, of)
    done = command("python", "-m", "scripts.merge", recipe.path)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    proof = proof_of(recipe.output_dir / "merged")
    assert proof["good"] and proof["made_of"]["quantized"] == ("nf4" if "qlora" in of else None)
    assert ("embeddings and head too" in proof["compared"]) is ("qlora" in of)


def test_the_real_model_is_merged_and_evaluated(tmp_path: Path, smollm2: Path) -> None:
    recipe = tiny_recipe(tmp_path, smollm2)
    done = command("python", "-m", "scripts.merge", recipe.path)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert proof_of(recipe.output_dir / "merged")["good"] is True
    output = tmp_path / "results"
    flags = ("--models", "base,tuned,merged", "--limit", 2, "--output", output)
    done = command("python", "-m", "eval.run", recipe.path, *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    scores = Scores.read(output / "scores.json")
    assert scores.models == ["base", "tuned", "merged"] and scores.main == "tuned"
    tuned, merged = (
        read_predictions(output / f"predictions.{name}.jsonl") for name in ("tuned", "merged")
    )
    assert [row.prediction for row in tuned] == [row.prediction for row in merged]
