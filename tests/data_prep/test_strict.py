"""Each broken recipe produces exactly its messages; valid recipes produce none."""

import time
from pathlib import Path

import pytest
import yaml

from data_prep.errors import UserError
from data_prep.recipe import find_problems, load_recipe, read_yaml
from tests.conftest import ROOT
from tests.data_prep.broken_recipes import BROKEN
from tests.data_prep.recipe_edits import (
    BASE,
    BEST,
    END,
    ROUGE_100,
    STEPS,
    BrokenRecipe,
    changed,
    problems,
)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda b: b.name)
def test_broken_recipe_produces_its_messages(tmp_path: Path, broken: BrokenRecipe) -> None:
    path = broken.write(tmp_path)
    messages = broken.messages(path)
    with pytest.raises(UserError) as error:
        load_recipe(path)
    assert str(error.value) in messages


def test_table_is_large_and_without_repeats() -> None:
    assert len(BROKEN) >= 80
    assert len({b.name for b in BROKEN}) == len({b.text() for b in BROKEN}) == len(BROKEN)


VALID = {
    "packing with sdpa": changed(("group_by_length", "sample_packing")),
    "packing with the old attention key": changed(
        ("group_by_length", "sample_packing"), ("attn_implementation: sdpa", "sdp_attention: true")
    ),
    "packing with a kernel from the hub": changed(
        ("group_by_length", "sample_packing"),
        ("attn_implementation: sdpa", "attn_implementation: kernels-community/flash-attn2@v1"),
    ),
    "qlora": changed(("adapter: lora", "adapter: qlora\nload_in_4bit: true")),
    "full training": changed(("adapter: lora\n", "")),
    "other targets": changed(("lora_target_linear: true", "lora_target_modules: [q_proj]")),
    "no 4 bits": changed(("", "load_in_4bit: false\nsave_only_model: false\n")),
    "best loss": changed(("", BEST), STEPS),
    "best loss, set explicitly": changed(
        ("", BEST + "metric_for_best_model: loss\ngreater_is_better: false\n"), STEPS
    ),
    "best checkpoint by epochs": changed(
        ("", BEST),
        ("eval_strategy: epoch\nsave_steps: 250", "evals_per_epoch: 4\nsaves_per_epoch: 2"),
    ),
    "best rouge": changed(
        ("", BEST + "metric_for_best_model: eval_rougeL\ngreater_is_better: true\n"),
        STEPS, ROUGE_100,
    ),
    "early stopping": changed(
        ("", "early_stopping_patience: 2\nmetric_for_best_model: rouge1\n"), STEPS, ROUGE_100
    ),
    "saving the best": changed(
        ("save_steps: 250", "save_strategy: best"), ("", "metric_for_best_model: eval_loss\n")
    ),
    "a scheduler that steps on the metric": changed(
        ("lr_scheduler: cosine", "lr_scheduler: reduce_lr_on_plateau"),
        ("", "metric_for_best_model: eval_loss\n"),
    ),
    "fsdp with and without the old prefix": changed(
        ("", "fsdp_version: 2\nfsdp_config:\n  fsdp_offload_params: true\n  version: 2\n")
    ),
    "deepspeed": changed(("", "deepspeed: deepspeed_configs/zero2.json\n")),
    "wandb": changed(("", "use_wandb: true\nwandb_project: chats\nwandb_watch:\n")),
    "trl": changed(("", "trl:\n  beta: 0.1\n  generation_kwargs: {stop_token_ids: [1, 2]}\n")),
    "the model's own config": changed(("", "model_config: {rope_theta: 10000.0, any: 1.e-6}\n")),
    "text that looks like a number": changed(
        ("", "wandb_name: 2e-4\nmodel_revision: '12'\nlr_scheduler_kwargs: {a: '12', b: x1e5}\n")
    ),
    "keys from another block": changed(
        ("weight_decay: 0.0\n", "<<: {micro_batch_size: 2, weight_decay: 0.1}\n"),
    ),
    "the same block twice": changed(
        ("ds_type: json\n    type: chat_template\ntest", "type: &chat chat_template\ntest"),
        ("    type: chat_template\n    split", "    type: *chat\n    split"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", VALID)
def test_valid_recipe_produces_no_messages(tmp_path: Path, case: str) -> None:
    assert problems(tmp_path, VALID[case]) == []


def test_every_reason_against_a_best_model_is_reported(tmp_path: Path) -> None:
    text = changed(("", BEST + "early_stopping_patience: 2\n"), STEPS)
    assert problems(tmp_path, text) == []
    said = problems(tmp_path, text, test_datasets=None)
    assert any("turned off: there is no evaluation data" in p for p in said)
    said = problems(tmp_path, text.replace("eval_steps: 10\n", "eval_steps: 15\n"))
    both = f"{END + 1}: `load_best_model_at_end` and `early_stopping_patience` would be turned off"
    why = "saving every 20 steps is not a multiple of evaluating every 15"
    assert [p.split("; ")[0] for p in said] == [f"{both}: {why}"]


def test_file_that_is_not_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "bad.yml"
    for text, message in {
        "seed: 1\nlora_r: [\n": f"{path}:3: is not valid YAML: ",
        "seed: 1\n? [a, b]\n: 1\n": f"{path}:2: is not valid YAML: ",
        "seed: 1\nsummarization: &all\n  decoding: *all\n": f"{path}:2: is not valid YAML: ",
        "wandb_name: 2024-13-45\n": f"{path}: is not valid YAML: month must be",
        "seed: 1\na:\n  b: 1\n  b: 2\n": f"{path}:4: `b` is in its block twice; keep one",
        "seed: 1\nyes: 1\ntrue: 2\n": f"{path}:3: `true` is in its block twice; keep one",
        "- seed\n": f"{path}: is not a recipe",
        "": f"{path}: is not a recipe",
    }.items():
        path.write_text(text, "utf-8")
        with pytest.raises(UserError) as error:
            read_yaml(path)
        assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "broken",
    [
        "datasets: 3\n", "datasets: [3]\n", "datasets: [[3]]\n", "datasets:\n", "plugins: 3\n",
        "plugins: [3, liger]\n", "plugins: [pathlib.Path]\n", "summarization: 3\n",
        "summarization: [3]\n", "special_tokens: 3\n",
        "save_steps: [1]\nload_best_model_at_end: [1]\neval_steps: {a: 1}\n", "adapter: [lora]\n",
        "attn_implementation: 3\nsample_packing: true\n", "metric_for_best_model: 3\n", "3: 3\n",
        "fsdp_config: [3]\n", "lr_scheduler_kwargs: 3\n", "2024-01-01: 3\n", "~: 3\n",
    ],
)  # fmt: skip
def test_values_of_any_type_are_refused_without_a_crash(tmp_path: Path, broken: str) -> None:
    keys = [str(key) for key in yaml.safe_load(broken)]
    others = {k: v for k, v in yaml.safe_load(BASE).items() if k not in keys}
    said = problems(tmp_path, broken + yaml.safe_dump(others))
    assert said and any(p.startswith("1: ") or keys[0] in p for p in said)
    assert len(said) == len(set(said))


ONE_PROBLEM = [
    ("path: data/smollm2_samsum/train.jsonl", "path: [a]", "`datasets[0].path`"),
    ("eval_strategy: epoch", BEST + "eval_steps: many", "`eval_steps`"),
    ("adapter: lora\n", "adapter: qlora\nload_in_4bit: perhaps\n", "`load_in_4bit`"),
]


@pytest.mark.parametrize(("old", "new", "only"), ONE_PROBLEM)
def test_a_consequence_of_another_problem_is_not_reported(
    tmp_path: Path, old: str, new: str, only: str
) -> None:
    said = problems(tmp_path, changed((old, new)))
    assert [p.split(": ")[1] for p in said] == [only]


def test_it_is_quick_and_silent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    config = read_yaml(ROOT / "recipes/mistral_samsum.yml")
    find_problems(ROOT / "recipes/smollm2_samsum.yml", config)  # which imports Axolotl
    capfd.readouterr()
    caplog.clear()
    start = time.process_time()
    find_problems(ROOT / "recipes/mistral_samsum.yml", config)
    problems(tmp_path, changed(("lora_r:", "lora_rank:")))
    assert problems(tmp_path, BASE + "dpo_beta: 0.1\n") == []  # Axolotl warns about it
    assert time.process_time() - start < 1.5
    assert capfd.readouterr() == ("", "") and caplog.messages == []
