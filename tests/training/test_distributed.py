"""The files of recipes/distributed/, each read by the parser of its own library."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep.recipe import find_problems
from tests.conftest import ROOT

FOLDER = ROOT / "recipes/distributed"
GPU_RECIPES = [p for p in (ROOT / "recipes").glob("*.yml") if not p.stem.startswith("smollm2")]


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_reads_it(stage: int) -> None:
    """With the values that transformers would set for each `auto` of mistral_samsum.yml."""
    pytest.importorskip("deepspeed", reason="deepspeed is in the extra `deepspeed`")
    from deepspeed.runtime.config import DeepSpeedConfig

    config = json.loads((FOLDER / f"zero{stage}.json").read_text("utf-8"))
    config |= {"bf16": {"enabled": True}, "fp16": {"enabled": False}, "gradient_clipping": 1.0}
    config |= {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 4}
    config["train_batch_size"] = 4
    zero = config["zero_optimization"]
    config["zero_optimization"] = {k: 10_000 if v == "auto" else v for k, v in zero.items()}
    parsed = DeepSpeedConfig(config)
    assert parsed.zero_config.stage == stage and parsed.gradient_accumulation_steps == 4
    fields = type(parsed.zero_config).model_fields
    assert set(zero) <= {*fields, *(field.alias for field in fields.values())}


@pytest.mark.parametrize("stage", [2, 3])
def test_transformers_reads_it(stage: int) -> None:
    """Only keys that the trainer fills in are `auto`."""
    config = json.loads((FOLDER / f"zero{stage}.json").read_text("utf-8"))
    assert config["zero_optimization"]["stage"] == stage
    autos = {k for k, v in {**config, **config["zero_optimization"]}.items() if v == "auto"}
    assert autos <= {
        "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps",
        "gradient_clipping", "reduce_bucket_size", "stage3_prefetch_bucket_size",
        "stage3_param_persistence_threshold",
    }  # fmt: skip


@pytest.mark.parametrize("path", GPU_RECIPES, ids=lambda p: p.stem)
def test_recipes_with_these_files_pass_the_strict_checks(path: Path) -> None:
    config = yaml.safe_load(path.read_text("utf-8"))
    if config["optimizer"] == "adamw_8bit":  # bitsandbytes does not support sharded tensors
        config["optimizer"] = "adamw_torch_8bit"
    block = json.loads((FOLDER / "fsdp2.json").read_text("utf-8"))
    assert find_problems(path, {**config, "fsdp_version": 2, "fsdp_config": block}) == []
    assert find_problems(path, {**config, "deepspeed": str(FOLDER / "zero3.json")}) == []
    block["transformer_layer"] = "MistralDecoderLayer"
    (problem,) = find_problems(path, {**config, "fsdp_version": 2, "fsdp_config": block})
    assert "unknown key `fsdp_config.transformer_layer`" in problem


@pytest.mark.parametrize(("name", "machines"), [("8_gpus", 1), ("2_machines", 2)])
def test_accelerate_reads_it(name: str, machines: int) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config: Any = load_config_from_file(str(FOLDER / f"accelerate_{name}.yaml"))
    assert config.num_machines == machines and config.num_processes == 8 * machines
    assert config.distributed_type.value == "MULTI_GPU"
