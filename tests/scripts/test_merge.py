"""scripts.merge: what it writes, keeps, and refuses before it writes anything."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from data_prep.errors import run_cli
from data_prep.prepare import prepare
from data_prep.recipe import Recipe, load_recipe
from data_prep.sources import sha256_of
from eval.predictions import read_predictions
from eval.scores import Scores
from scripts.merge import main
from scripts.merge_proof import Proof
from tests.conftest import ROOT, command, derived_recipe

SOMEWHERE = "/home/somebody/runs/7"


def save_adapter(recipe: Recipe, **settings: Any) -> None:
    """Save a PEFT adapter with random weights, as if Axolotl had trained it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(recipe.config["base_model"])
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings)
    tuned: Any = get_peft_model(base, config)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    tuned.save_pretrained(recipe.output_dir)


def tiny_recipe(folder: Path, model: Path, of: str = "smollm2_samsum") -> Recipe:
    """Return a prepared recipe on a small model, with an adapter."""
    path = derived_recipe(
        of, folder, "tiny", base_model=str(model), summarization__source="data_prep/sample",
        summarization__decoding={"max_new_tokens": 8, "dtype": "float32"},
    )  # fmt: skip
    recipe = load_recipe(path)
    prepare(recipe)
    save_adapter(recipe, target_modules=["q_proj", "o_proj", "down_proj"])
    return recipe


def run(capsys: pytest.CaptureFixture[str], recipe: Recipe) -> tuple[int, str, str]:
    """Run the command in this process; return exit code, output and last line of stderr."""
    code = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["scripts.merge", str(recipe.path)])
        try:
            run_cli(main)
        except SystemExit as stop:
            code = int(stop.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, (printed.err.splitlines() or [""])[-1]


def proof_of(recipe: Recipe) -> Proof:
    path = recipe.output_dir / "merged/merge_proof.json"
    return Proof.model_validate_json(path.read_bytes())


def files(folder: Path) -> dict[str, str]:
    found = (p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(folder)): sha256_of(p) for p in found}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_smollm2: Path) -> Recipe:
    """A recipe on a carelessly saved tiny model: it has paths and a wrong end token."""
    folder = tmp_path_factory.mktemp("trained")
    model = Path(shutil.copytree(tiny_smollm2, folder / "careless"))
    for name, more in (
        ("config.json", {"_name_or_path": SOMEWHERE}),
        ("generation_config.json", {"eos_token_id": 0}),
        ("tokenizer_config.json", {"name_or_path": str(model)}),
    ):
        settings = json.loads((model / name).read_text("utf-8"))
        (model / name).write_text(json.dumps({**settings, **more}), "utf-8")
    (model / "README.md").write_text(f"Made in {model}/here\n", "utf-8")
    return tiny_recipe(folder, model)


@pytest.fixture
def recipe(trained: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A copy that a test may spoil; Axolotl merges in this process, which saves ten seconds."""

    def merge(recipe: Recipe, adapter: Path, scratch: Path) -> None:
        from axolotl.cli.utils.lora_merge import merge_lora_sharded_efficient

        merge_lora_sharded_efficient(recipe.config["base_model"], adapter, scratch / "merged")

    monkeypatch.setattr("scripts.merge._run_axolotl", merge)
    path = tmp_path / "tiny.yml"
    text = trained.path.read_text("utf-8")
    for name in ("data", "output"):
        shutil.copytree(trained.path.parent / name, tmp_path / name)
        text = text.replace(str(trained.path.parent / name), str(tmp_path / name))
    path.write_text(text, "utf-8")
    return load_recipe(path)


def test_a_merge_is_proved_and_contains_no_path_of_this_machine(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(recipe.output_dir)
    (recipe.output_dir / ".merging").mkdir()  # left by a killed merge
    code, printed, error = run(capsys, recipe)
    assert code == 0, error
    after = files(recipe.output_dir)
    assert {k: v for k, v in after.items() if not k.startswith("merged/")} == before
    assert not (recipe.output_dir / ".merging").exists()
    proof = proof_of(recipe)
    assert proof.good and proof.exceeded == []
    assert "| matrices with the adapter's change | 6 of 6 | all | yes |" in printed
    assert "| its own chat template gives training's ids | 16 of 16 | all | yes |" in printed
    assert re.search(r"\(float32\): greatest difference \| 0\.\d\d steps", printed)
    for path in (recipe.output_dir / "merged").iterdir():
        text = path.read_text("utf-8", "replace")
        for word in (SOMEWHERE, str(ROOT), str(recipe.path.parent), recipe.config["base_model"]):
            assert word not in text, path.name
    # with the base model's own settings it would never stop
    settings = json.loads((recipe.output_dir / "merged/generation_config.json").read_text("utf-8"))
    assert settings["eos_token_id"] == [2, 0]


def test_a_second_run_only_repeats_the_proof(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, recipe)[0] == 0
    merged = files(recipe.output_dir / "merged")
    (recipe.output_dir / "merged/merge_proof.json").unlink()
    monkeypatch.setattr("scripts.merge._run_axolotl", lambda *_: pytest.fail("merged"))
    code, printed, _ = run(capsys, recipe)
    assert code == 0 and "already merged from this adapter" in printed
    assert files(recipe.output_dir / "merged").keys() == merged.keys()
    assert proof_of(recipe).good


def another_adapter(recipe: Recipe) -> None:
    save_adapter(recipe, target_modules=["v_proj"])


def changed_weights(recipe: Recipe) -> None:
    path = recipe.output_dir / "merged/model.safetensors"
    path.write_bytes(path.read_bytes()[:-5000])


def unfinished_record(recipe: Recipe) -> None:
    (recipe.output_dir / "merged/merge.json").write_text("{", "utf-8")


@pytest.mark.parametrize("change", [another_adapter, changed_weights, unfinished_record])
def test_a_folder_that_is_not_this_merge_is_set_aside(
    recipe: Recipe, change: Callable[[Recipe], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, recipe)[0] == 0
    change(recipe)
    before = files(recipe.output_dir / "merged")
    code, printed, error = run(capsys, recipe)
    assert code == 0, error
    assert "set aside as merged-set-aside" in printed
    assert files(recipe.output_dir / "merged-set-aside") == before
    assert proof_of(recipe).good


def test_a_wrong_merge_exits_with_1(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = recipe.config["base_model"]
    monkeypatch.setattr(
        "scripts.merge._run_axolotl", lambda _, __, to: shutil.copytree(base, to / "merged")
    )
    code, printed, error = run(capsys, recipe)
    assert code == 1 and error.startswith("error: ") and "merge_method: legacy" in error
    assert "matrices with the adapter's change" in error and "| 0 of 6" in printed
    assert not proof_of(recipe).good


def no_adapter(recipe: Recipe) -> None:
    (recipe.output_dir / "adapter_model.safetensors").unlink()


def other_base(recipe: Recipe) -> None:
    config = recipe.output_dir / "adapter_config.json"
    text = config.read_text("utf-8").replace(recipe.config["base_model"], "somebody/else-7b")
    config.write_text(text, "utf-8")


def other_shape(recipe: Recipe) -> None:
    weights = recipe.output_dir / "adapter_model.safetensors"
    save_file({k: v[:, :3].contiguous() for k, v in load_file(weights).items()}, weights)


def unknown_layer(recipe: Recipe) -> None:
    weights = recipe.output_dir / "adapter_model.safetensors"
    renamed = {k.replace(".layers.1", ".layers.9"): v for k, v in load_file(weights).items()}
    save_file(renamed, weights)


def truncated(recipe: Recipe) -> None:
    weights = recipe.output_dir / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])


def stale_data(recipe: Recipe) -> None:
    (recipe.data_dir / "validation.jsonl").write_text("", "utf-8")


# Axolotl merges these three wrongly, without a message, if the embeddings are tied
def lora_on_the_head(recipe: Recipe) -> None:
    save_adapter(recipe, target_modules=["v_proj", "lm_head"])


def saved_embeddings(recipe: Recipe) -> None:
    save_adapter(recipe, target_modules=["v_proj"], modules_to_save=["lm_head", "embed_tokens"])


def lora_on_the_embedding(recipe: Recipe) -> None:
    save_adapter(recipe, target_modules=["v_proj", "embed_tokens"])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_adapter, "no trained adapter there; train one with"),
        (other_base, "trained on somebody/else-7b, but the recipe's base_model"),
        (other_shape, "does not fit"),
        (unknown_layer, "does not fit"),
        (truncated, "does not fit"),
        (stale_data, "missing or changed since it was prepared"),
        (lora_on_the_head, "changes lm_head"),
        (saved_embeddings, "are one matrix"),
        (lora_on_the_embedding, "changes model.embed_tokens"),
    ],
)
def test_bad_input_prints_one_line_and_writes_nothing(
    recipe: Recipe,
    spoil: Callable[[Recipe], None],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("scripts.merge._run_axolotl", lambda *_: pytest.fail("merged"))
    spoil(recipe)
    before = files(recipe.output_dir)
    code, _, error = run(capsys, recipe)
    assert code == 2 and error.startswith("error: ") and words in error
    assert files(recipe.output_dir) == before


def test_too_little_space_is_reported_before_anything_is_written(
    trained: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(trained.output_dir)
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    code, _, error = run(capsys, trained)
    assert code == 2 and "0.0 GB are free" in error
    assert files(trained.output_dir) == before


@pytest.mark.slow
@pytest.mark.parametrize("of", ["mistral_samsum", "mistral_samsum_qlora"])
def test_a_recipe_for_gpus_is_merged_on_a_cpu(of: str, tmp_path: Path, tiny_mistral: Path) -> None:
    """Keys that training refuses on a CPU are accepted; 4-bit weights are rounded the same way."""
    recipe = tiny_recipe(tmp_path, tiny_mistral, of)
    done = command("python", "-m", "scripts.merge", recipe.path)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    proof = proof_of(recipe)
    assert proof.good and proof.made_of["quantized"] == ("nf4" if "qlora" in of else None)
    assert ("embeddings and head too" in proof.compared) is ("qlora" in of)


@pytest.mark.slow
def test_the_real_model_is_merged_and_evaluated(tmp_path: Path, smollm2: Path) -> None:
    recipe = tiny_recipe(tmp_path, smollm2)
    limited = f"ulimit -f 1000; exec {sys.executable} -m scripts.merge {recipe.path}"
    before = files(recipe.output_dir)
    done = command("bash", "-c", limited)  # as if the disk were full
    assert done.returncode == 2, done.stderr[-3000:]
    assert "merged: cannot be written (File too large); free some space" in done.stderr
    assert files(recipe.output_dir) == before
    done = command("python", "-m", "scripts.merge", recipe.path)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert proof_of(recipe).good
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
