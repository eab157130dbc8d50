"""The plugin: CPU settings, a tokenised cache keyed on content, and refusal of stale data."""

from pathlib import Path

import pytest
import torch
from axolotl.utils.dict import DictDefault

from data_prep.prepare import prepare
from data_prep.recipe import Recipe, load_recipe
from tests.conftest import derived_recipe
from training import plugin, run_record
from training.machine_checks import LORA_KERNELS
from training.plugin import SummarizationPlugin

needs_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="tests the settings without a GPU")


@pytest.fixture
def recipe(tmp_path: Path, tiny_smollm2: Path) -> Recipe:
    path = derived_recipe("smollm2_samsum", tmp_path, "plugin", base_model=str(tiny_smollm2))
    recipe = load_recipe(path)
    prepare(recipe)
    return recipe


def as_axolotl_gives_it(recipe: Recipe) -> DictDefault:
    return DictDefault({**recipe.config, "axolotl_config_path": str(recipe.path)})


@needs_cpu
def test_cpu_settings(recipe: Recipe) -> None:
    cfg = as_axolotl_gives_it(recipe)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as `accelerate launch` sets it
    try:
        SummarizationPlugin().register(cfg)
        assert torch.get_num_threads() > 1 or before == 1
    finally:
        torch.set_num_threads(before)
    assert [cfg[kernel] for kernel in LORA_KERNELS] == [False] * 4
    assert cfg["bf16"] in (True, False) and cfg["fp16"] is False
    assert cfg["auto_resume_from_checkpoints"] is True
    cfg["summarization"]["eval_on_start"] = None  # as validation leaves it
    arguments = SummarizationPlugin().get_training_args(cfg)
    assert arguments == {"use_cpu": True, "eval_on_start": False}
    cfg["summarization"]["eval_on_start"] = True
    assert SummarizationPlugin().get_training_args(cfg)["eval_on_start"] is True
    cfg["resume_from_checkpoint"] = "checkpoint-5"  # a repeated evaluation costs patience
    assert SummarizationPlugin().get_training_args(cfg)["eval_on_start"] is False


@needs_cpu
def test_a_merge_skips_checks_and_settings(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Axolotl's command reads the recipe unchanged, and again with the overrides for a merge."""
    recipe.config["attn_implementation"] = "flash_attention_2"  # needs a GPU
    with pytest.raises(SystemExit):
        SummarizationPlugin().register(as_axolotl_gives_it(recipe))
    for argv in (["axolotl/cli/merge_lora.py", "recipe"], ["bin/axolotl", "merge-lora", "recipe"]):
        monkeypatch.setattr("sys.argv", argv)
        for overrides in ({}, {"merge_lora": True, "load_in_4bit": False, "fsdp": None}):
            named = {"lora_model_dir": "named"}
            cfg = DictDefault({**as_axolotl_gives_it(recipe), **overrides, **named})
            before = dict(cfg)
            SummarizationPlugin().register(cfg)
            assert dict(cfg) == before
    assert not recipe.output_dir.exists()


@needs_cpu
def test_the_precision_of_the_recipe_or_an_earlier_start_is_kept(recipe: Recipe) -> None:
    for kept in (True, False):
        cfg = as_axolotl_gives_it(recipe)
        cfg["bf16"] = kept
        SummarizationPlugin().register(cfg)
        assert cfg["bf16"] is kept and cfg["fp16"] is None
    for measured in (True, False):
        run_record.write_run(recipe.output_dir, {}, {"bf16": measured}, "")
        cfg = as_axolotl_gives_it(recipe)
        assert cfg["bf16"] == "auto"
        SummarizationPlugin().register(cfg)
        assert cfg["bf16"] is measured


def test_other_data_get_another_tokenised_cache(recipe: Recipe) -> None:
    first, again, changed = (as_axolotl_gives_it(recipe) for _ in range(3))
    SummarizationPlugin().load_datasets(first, preprocess=True)
    SummarizationPlugin().load_datasets(again, preprocess=True)
    block = recipe.summarization.model_copy(update={"train_rows": 100})
    prepare(Recipe(recipe.path, recipe.config, block))
    changed["summarization"]["train_rows"] = 100
    SummarizationPlugin().load_datasets(changed, preprocess=True)
    assert first["dataset_prepared_path"] == again["dataset_prepared_path"]
    assert first["dataset_prepared_path"] != changed["dataset_prepared_path"]
    assert Path(first["dataset_prepared_path"]).parent == recipe.data_dir / "tokenized"
    assert not recipe.output_dir.exists()  # `axolotl preprocess` starts no run


def test_rows_replaced_while_training_reads_them_are_refused(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin, cfg = SummarizationPlugin(), as_axolotl_gives_it(recipe)
    plugin.load_datasets(cfg, preprocess=True)
    cache = Path(cfg["dataset_prepared_path"])
    cache.mkdir(parents=True)  # Axolotl writes what it tokenised there
    plugin.pre_model_load(cfg)
    with (recipe.data_dir / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n")
    with pytest.raises(SystemExit):
        plugin.pre_model_load(cfg)
    assert "train.jsonl: missing or changed since it was prepared" in capsys.readouterr().err
    assert not cache.exists() and cache.with_name(f"set-aside-{cache.name}").is_dir()


def test_stale_or_missing_data_end_training_with_one_line(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = as_axolotl_gives_it(recipe)
    cfg["summarization"]["instruction"] = "Sum up: {dialogue}"
    with pytest.raises(SystemExit) as stop:
        SummarizationPlugin().load_datasets(cfg)
    assert stop.value.code == 2
    assert "summarization.instruction changed" in capsys.readouterr().err
    (recipe.data_dir / "manifest.json").unlink()
    with pytest.raises(SystemExit), pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANK", "1")  # also if only another process finds it
        patch.setattr(plugin, "WAIT", 0)
        SummarizationPlugin().load_datasets(as_axolotl_gives_it(recipe))
    assert "manifest.json: is missing; run `python -m data_prep" in capsys.readouterr().err


def test_a_merge_key_in_a_recipe_does_not_skip_the_checks(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = as_axolotl_gives_it(recipe)
    cfg["merge_lora"], cfg["output_dir"] = True, recipe.config["base_model"]
    with pytest.raises(SystemExit):
        SummarizationPlugin().register(cfg)
    with recipe.path.open("a", encoding="utf-8") as file:
        file.write("merge_lora: true\n")
    monkeypatch.setattr("sys.argv", ["bin/axolotl", "merge-lora", "recipe"])
    with pytest.raises(SystemExit):
        SummarizationPlugin().register(
            DictDefault({**as_axolotl_gives_it(recipe), "merge_lora": True})
        )
    assert "sets by itself; remove it" in capsys.readouterr().err
