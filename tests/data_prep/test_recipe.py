"""Our recipes: Axolotl's schema, the arithmetic in comments, and the reader's refusals."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep.errors import UserError
from data_prep.recipe import DEFAULT_RECIPE, load_recipe
from tests.conftest import ROOT, command, derived_recipe

RECIPES = sorted((ROOT / "recipes").glob("*.yml"))
SECTIONS = [
    "# data", "# prompt", "# model", "# adapter", "# optimisation", "# precision and memory",
    "# logging and saving",
]  # fmt: skip

VALIDATE = """
import sys, traceback, yaml
from axolotl.integrations.base import PluginManager
from axolotl.utils.config import validate_config
from axolotl.utils.dict import DictDefault
a100 = dict(bf16=True, tf32=True, fp8=False, n_gpu=1, n_node=1, compute_capability="sm_80")
for path in sys.argv[1:]:
    cfg = DictDefault(yaml.safe_load(open(path)))
    cfg.dataset_prepared_path = "unused"
    for plugin in cfg.plugins:  # only their schemas: our own checks are tested elsewhere
        PluginManager.get_instance().register(plugin)
    try:
        cfg = validate_config(cfg, capabilities=a100, env_capabilities={"torch_version": "2.13.0"})
        print(path, "VALID", cfg.summarization.instruction.count("{dialogue}"), cfg.adapter)
    except Exception:
        print(path, traceback.format_exc())
"""


def raw(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text("utf-8"))


def test_axolotl_accepts_our_recipes_on_an_a100_and_refuses_misspelt_ones(
    tmp_path: Path,
) -> None:
    misspelt = [
        derived_recipe("smollm2_samsum", tmp_path, key, **{key: 16})
        for key in ("lora_rank", "summarization__train_row")
    ]
    said = command("python", "-c", VALIDATE, *RECIPES, *misspelt).stdout
    for path in RECIPES:
        assert f"{path} VALID 1 {raw(path)['adapter']}" in said, said[-3000:]
    for path in misspelt:
        assert f"{path} VALID" not in said
    assert said.count("Extra inputs are not permitted") == 2


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipe_is_laid_out_like_the_others(path: Path) -> None:
    recipe = load_recipe(path)
    text = path.read_text("utf-8")
    header = text.split("\n\n")[0].splitlines()
    assert len(header) <= 8 and all(line.startswith("# ") for line in header)
    places = [text.index(f"\n{section}\n") for section in SECTIONS]
    assert places == sorted(places)
    assert None not in recipe.config.values(), "an empty key"
    for key, value in recipe.config.items():
        assert not (isinstance(value, str) and _is_number(value)), f"{key}: {value} is text"
    for line in ("python -m data_prep", "axolotl.cli.train", "python -m eval.run"):
        assert f"{line} {path.relative_to(ROOT)}" in text
    assert str(recipe.data_dir) == f"data/{recipe.name}"
    assert str(recipe.output_dir) == f"outputs/{recipe.name}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_arithmetic_in_comments() -> None:
    mistral = raw(ROOT / "recipes/mistral_samsum.yml")
    rows_per_pack = mistral["sequence_len"] / 216.6  # Mistral's tokens in the mean row
    batch = mistral["micro_batch_size"] * mistral["gradient_accumulation_steps"]
    assert round(rows_per_pack) == 9 and batch == 4
    weights = {"q": (4096, 4096), "k": (4096, 1024), "v": (4096, 1024), "o": (4096, 4096),
               "gate": (4096, 14336), "up": (4096, 14336), "down": (14336, 4096)}  # fmt: skip
    adapter = 32 * mistral["lora_r"] * sum(map(sum, weights.values()))
    assert round(adapter / 1e6) == 84
    logits = mistral["micro_batch_size"] * mistral["sequence_len"] * 32000 * 12
    assert round(logits / 1e9, 1) == 0.8
    rows, epochs = 7366, raw(ROOT / "recipes/mistral_samsum_notebook.yml")["num_epochs"]
    assert rows * epochs / 3 == 7366
    for name, vocabulary, gigabytes in (("qwen3", 151_936, 15), ("llama3", 128_256, 13)):
        other = raw(ROOT / f"recipes/{name}_samsum.yml")
        batch = other["micro_batch_size"] * other["sequence_len"]
        assert batch == 8192 and round(batch * vocabulary * 12 / 1e9) == gigabytes


@pytest.mark.parametrize(
    ("name", "per_token", "gigabytes"),  # keys and values: 2 x layers x heads x width x bytes
    [
        ("mistral_samsum", 2 * 32 * 8 * 128 * 2, 8.6),
        ("mistral_samsum_qlora", 2 * 32 * 8 * 128 * 2, 4.3),
        ("qwen3_samsum", 2 * 28 * 8 * 128 * 2, 7.5),
        ("llama3_samsum", 2 * 16 * 8 * 64 * 2, 2.1),
    ],
)
def test_arithmetic_of_batch_tokens(name: str, per_token: int, gigabytes: float) -> None:
    path = ROOT / f"recipes/{name}.yml"
    tokens = raw(path)["summarization"]["decoding"]["batch_tokens"]
    assert round(tokens * per_token / 1e9, 1) == gigabytes
    said = f"# {gigabytes} GB of keys and values at {round(per_token / 1000)} kB per token"
    assert said in path.read_text("utf-8")


def test_arithmetic_of_the_sample() -> None:
    smollm2 = raw(ROOT / "recipes/smollm2_samsum.yml")
    rows = len((ROOT / "data_prep/sample/train.jsonl").read_text("utf-8").splitlines())
    assert rows / smollm2["micro_batch_size"] == 40


def test_default_recipe_exists() -> None:
    assert load_recipe(ROOT / DEFAULT_RECIPE).name == "mistral_samsum"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"summarization__decoding": {"min_new_tokens": 999}}, "above max_new_tokens"),
        ({"summarization__decoding": {"engine": "vllm", "num_beams": 2}}, "need `engine: hf`"),
        ({"summarization__instruction": "{dialogue} {dialogue}"}, "must contain {dialogue}"),
        ({"datasets": []}, "`datasets[0].path` is missing"),
        ({"test_datasets": [{"path": "elsewhere/validation.jsonl"}]}, "into the same folder"),
    ],
)
def test_reader_refuses(tmp_path: Path, overrides: dict[str, Any], message: str) -> None:
    """The cases that are not in tests/data_prep/broken_recipes.py."""
    path = derived_recipe("smollm2_samsum", tmp_path, "bad", **overrides)
    with pytest.raises(UserError) as error:
        load_recipe(path)
    assert message in str(error.value) and str(path) in str(error.value)
