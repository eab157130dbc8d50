"""The variants of scripts/bench_gpu.py, and one run of each through Axolotl's own launch line."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_prep.preflight.lengths import lengths
from data_prep.preflight.memory import estimate_memory
from data_prep.preflight.model_shape import shape_of
from data_prep.preflight.plan import plan, with_defaults
from data_prep.preflight.speed import number_size, operations_a_token, rate_of
from data_prep.recipe import Recipe, load_recipe
from data_prep.training.machine import cpu_overrides
from scripts.bench_plugin import CAP, RESULT

ROOT = Path(__file__).resolve().parent.parent
ROWS, TOKENS_A_ROW = 14_637, 216.6  # of SAMSum decontaminated, with Mistral's tokenizer
OURS = ROOT / "recipes/mistral_samsum.yml"
PLUGIN = "scripts.bench_plugin.BenchPlugin"


@dataclass(frozen=True)
class Variant:
    """A recipe, with `overrides` of its keys."""

    name: str
    what: str
    recipe: Path = OURS
    overrides: dict[str, Any] = field(default_factory=dict)


NO_KERNELS = dict.fromkeys(
    ("lora_qkv_kernel", "lora_o_kernel", "lora_mlp_kernel", "liger_rms_norm", "liger_rope"), False
)
VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("ours", "mistral_samsum.yml as it is"),
        Variant("no packing", "8 padded rows of like length in the place of a pack",
                overrides={"sample_packing": False, "eval_sample_packing": False,
                           "group_by_length": True, "micro_batch_size": 8}),
        Variant("no kernels", "neither LoRA's nor Liger's", overrides=NO_KERNELS),
        Variant("sdpa", "PyTorch's attention", overrides={"attn_implementation": "sdpa"}),
        Variant("checkpointing", "layers computed twice",
                overrides={"gradient_checkpointing": True}),
        Variant("qlora", "mistral_samsum_qlora.yml", ROOT / "recipes/mistral_samsum_qlora.yml"),
        Variant("notebook", "mistral_samsum_notebook.yml",
                ROOT / "recipes/mistral_samsum_notebook.yml"),
    )
}  # fmt: skip


def run_variant(
    variant: Variant,
    model: Path,
    folder: Path,
    steps: int,
    gpus: int,
    cap: float | None,
    also: dict[str, Any],
) -> dict[str, Any]:
    """Train `steps` steps in `folder`, which holds the data; what was measured and expected.

    `also` overrides keys of every variant; `cap` is in GB. Where training fails, `failed` says why,
    and what was not measured is left out.
    """
    import torch

    recipe = load_recipe(variant.recipe)
    changed = {**also, **variant.overrides}
    if not torch.cuda.is_available():
        changed |= cpu_overrides({**recipe.config, **changed})
        changed |= {"bf16": False} if recipe.config.get("bf16") else {}
    recipe = replace(recipe, config={**recipe.config, **changed, "base_model": str(model)})
    before = Path.cwd()
    os.chdir(folder)
    try:
        expected = _expected(recipe, gpus)
        measured = _train(variant, recipe, changed, folder, steps, gpus, cap)
    finally:
        os.chdir(before)
    found = {"variant": variant.name, "what": variant.what, "gpus": gpus, **expected, **measured}
    if speed := found.get("tokens_per_second"):
        found["mfu"] = speed * found["operations_a_token"] / found["matrix_rate"] / gpus
        found["minutes"] = _full_tokens(recipe) / speed / 60
    return found


def _train(
    variant: Variant,
    recipe: Recipe,
    changed: dict[str, Any],
    folder: Path,
    steps: int,
    gpus: int,
    cap: float | None,
) -> dict[str, Any]:
    result = folder / f"{variant.name.replace(' ', '_')}.json"
    command = [*_launcher(gpus), str(variant.recipe), *_flags(recipe, changed, result, steps)]
    env = {**os.environ, "AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", RESULT: str(result),
           "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
           CAP: str(cap or "")}  # fmt: skip
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode == 0 and result.is_file():
        return dict(json.loads(result.read_text("utf-8")))
    lines = [line for line in done.stderr.splitlines() if "rror" in line] or [done.stderr[-300:]]
    if any("memory ran out" in line for line in lines):
        return {"failed": "out of memory"}
    (folder / f"{result.stem}.log").write_text(done.stdout + done.stderr, "utf-8")
    print(done.stderr[-3000:], file=sys.stderr)
    return {"failed": lines[0][:200]}


def _flags(recipe: Recipe, changed: dict[str, Any], result: Path, steps: int) -> Iterator[str]:
    config = recipe.config
    flags = {
        "base_model": config["base_model"],
        "summarization__source": str(result.parent / "source"),
        "summarization__train_rows": "all",
        "plugins": json.dumps([*config["plugins"], PLUGIN]),
        "max_steps": steps, "eval_strategy": "no", "save_strategy": "no", "logging_steps": 1,
        "output_dir": f"outputs/{result.stem}", **changed,
    }  # fmt: skip
    for key, value in flags.items():
        yield from (f"--{key}", str(value))


def _launcher(gpus: int) -> list[str]:
    bin_dir = Path(sys.executable).parent
    if gpus == 1:
        return [str(bin_dir / "accelerate"), "launch", "--num_processes", "1", "-m",
                "axolotl.cli.train"]  # fmt: skip
    return [str(bin_dir / "torchrun"), "--nproc-per-node", str(gpus), "-m", "axolotl.cli.train"]


def _expected(recipe: Recipe, gpus: int) -> dict[str, Any]:
    """What preflight says of this variant on this card, before it has run."""
    import torch

    gpu, config = torch.cuda.is_available(), with_defaults(recipe.config)
    work, shape = plan(recipe, lengths(recipe)["train"], gpus), shape_of(recipe)
    assert shape is not None  # a model of random_model.py
    size = number_size(config, gpu)
    rate, operations = rate_of(size, gpu), operations_a_token(config, shape, work)
    if gpu:  # what the measurement of the rate took
        torch.cuda.empty_cache()
    memory = estimate_memory(config, shape, work, size, gpu)
    computed = _full_tokens(recipe) / (1 - work.padding)
    return {
        "expected_gb": memory.total / 1e9, "operations_a_token": operations,
        "matrix_rate": rate.product,
        "expected_minutes": computed * operations / rate.training / gpus / 60,
    }  # fmt: skip


def _full_tokens(recipe: Recipe) -> float:
    """Tokens of the whole run on SAMSum, padding aside."""
    rows = recipe.summarization.train_rows
    epochs = float(with_defaults(recipe.config)["num_epochs"])
    return (ROWS if rows == "all" else rows) * TOKENS_A_ROW * epochs
