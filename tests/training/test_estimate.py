"""The arithmetic of preflight, against runs that were made and against Axolotl's own schema."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import axolotl.monkeypatch.attention.sdpa_varlen as varlen
import pytest
import torch
from axolotl.loaders.patch_manager import PatchManager
from axolotl.utils.dict import DictDefault
from torch._subclasses import FakeTensor, FakeTensorMode
from transformers import MistralConfig, modeling_flash_attention_utils
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from data_prep.machine import bf16_is_faster
from data_prep.prepare import prepare
from data_prep.recipe import Recipe, load_recipe
from tests.conftest import derived_recipe
from training import estimate as speed
from training.estimate import Shape, estimate_memory, kept_a_token, lines, shape_of
from training.plan import keeps_to_rows, lengths, overlong, plan


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Recipe:
    folder = tmp_path_factory.mktemp("estimate")
    recipe = load_recipe(derived_recipe("smollm2_samsum", folder, "estimate"))
    prepare(recipe)
    return recipe


@pytest.fixture(scope="module")
def counts(recipe: Recipe) -> dict[str, list[int]]:
    return lengths(recipe)


def with_keys(recipe: Recipe, **keys: Any) -> Recipe:
    return replace(recipe, config={**recipe.config, **keys})


@pytest.mark.parametrize(
    ("keys", "processes", "steps"),
    [
        ({}, 1, 40),  # the demo's
        ({"num_epochs": 4}, 1, 160),
        ({"num_epochs": 0.5}, 1, 20),
        ({"max_steps": 7}, 1, 7),
        ({"micro_batch_size": 1, "gradient_accumulation_steps": 2}, 1, 80),
        ({"micro_batch_size": 1}, 2, 80),
    ],
)
def test_steps(
    recipe: Recipe, counts: dict[str, list[int]], keys: dict[str, Any], processes: int, steps: int
) -> None:
    assert plan(with_keys(recipe, **keys), counts["train"], processes).steps == steps


def test_overlong_rows_are_counted_and_left_out(
    recipe: Recipe, counts: dict[str, list[int]]
) -> None:
    limit = sorted(counts["train"])[-5]
    short = with_keys(recipe, sequence_len=limit)
    longer = sum(count > limit for count in counts["train"])
    train = overlong(short, counts)[0]
    assert 1 <= longer == train.rows and "left out" in str(train)
    assert plan(short, counts["train"]).rows == 160 - longer


def test_memory_grows_with_the_batch_and_shrinks_with_checkpointing(
    recipe: Recipe, counts: dict[str, list[int]]
) -> None:
    shape = shape_of(recipe)
    assert shape is not None

    def total(**keys: Any) -> float:
        other = with_keys(recipe, **keys)
        return estimate_memory(other.config, shape, plan(other, counts["train"]), 4, False).total

    assert total(micro_batch_size=1) < total(micro_batch_size=4) < total(micro_batch_size=8)
    assert total(gradient_checkpointing=True) < total()


def test_what_is_printed_shows_its_formula_and_its_error(
    recipe: Recipe, counts: dict[str, list[int]]
) -> None:
    text = "\n".join(f"{topic}: {line}" for topic, line in lines(recipe, counts, 1))
    assert "40 steps = 1.00 epochs of 40 steps" in text
    assert "weights 134,515,008 parameters" in text and "adapter 4,884,480 x 16 bytes" in text
    assert "-10% to 0%" in text and "never measured on a GPU" in text


PACKED = {"sample_packing": True, "attn_implementation": "sdpa", "bf16": True, "tf32": True}


def test_packed_sdpa_spans_a_row_on_a_gpu_and_the_pack_on_a_cpu(
    recipe: Recipe, counts: dict[str, list[int]]
) -> None:
    """`tf32` says that the recipe is for a GPU."""
    longest = max(counts["train"])
    on_gpu = plan(with_keys(recipe, **PACKED), counts["train"])
    assert on_gpu.longest_row <= longest and on_gpu.attended < longest
    flash = with_keys(recipe, **{**PACKED, "attn_implementation": "flash_attention_2"})
    assert plan(flash, counts["train"]).attended == pytest.approx(on_gpu.attended, rel=0.1)
    limit = recipe.config["sequence_len"]
    for keys in ({"sdpa_varlen": False}, {"tf32": False}, {"bf16": False}):
        whole = plan(with_keys(recipe, **{**PACKED, **keys}), counts["train"])
        assert whole.longest_row == whole.attended == limit


@pytest.fixture
def stock_sdpa() -> Iterator[None]:
    yield
    varlen.unpatch_sdpa_varlen()


@pytest.mark.usefixtures("stock_sdpa")
@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize(
    "keys",
    [{}, {"sdpa_varlen": False}, {"sample_packing": False}, {"bf16": False},
     {"bf16": False, "fp16": True}],
)  # fmt: skip
def test_preflight_knows_when_axolotl_turns_sdpa_into_varlen(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, keys: dict[str, Any]
) -> None:
    config = {**PACKED, **keys}
    dtype = torch.bfloat16 if config["bf16"] else torch.float32
    dtype = torch.float16 if config.get("fp16") else dtype
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    PatchManager(DictDefault({**config, "torch_dtype": dtype}), MistralConfig(sliding_window=None))\
        ._apply_sdpa_varlen_patch()  # fmt: skip
    assert keeps_to_rows(config, gpu) == varlen._PATCH_APPLIED


def test_attention_keeps_what_autograd_keeps_of_axolotls_varlen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its real forward pass on tensors without numbers; only their device is made up."""
    tokens, heads, key_heads, width = 64, 8, 2, 16
    places = torch.cat([torch.arange(40), torch.arange(24)])[None]
    flash = modeling_flash_attention_utils
    bounds, longest = flash.prepare_fa_kwargs_from_position_ids(places)
    found = bounds, tuple(map(int, longest))  # a tensor without numbers cannot be counted
    monkeypatch.setattr(flash, "prepare_fa_kwargs_from_position_ids", lambda ids: found)
    monkeypatch.setattr(varlen, "_is_packed", lambda ids: True)
    monkeypatch.setattr(FakeTensor, "is_cuda", True)
    attend = varlen._build_varlen_forward(sdpa_attention_forward)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True):
        asked = [
            torch.empty(1, n, tokens, width, dtype=torch.bfloat16, requires_grad=True)
            for n in (heads, key_heads, key_heads)
        ]
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            attend(torch.nn.Module(), *asked, None, position_ids=places)
    attention_alone = Shape(
        layers=1, hidden=0, intermediate=0, heads=heads, key_heads=key_heads, width=width,
        vocabulary=0, parameters=0, linear=0, adapter=0, inputs=0, shared_inputs=0, ranks=0,
    )  # fmt: skip
    a_plan: Any = None  # nothing of it is asked: a mask would depend on its longest row
    expected = kept_a_token(PACKED, attention_alone, a_plan, 2, gpu=True)
    assert 0 <= sum(kept.values()) / tokens - expected < 1  # 28 bytes for the rows' bounds


@pytest.mark.parametrize("measure", [bf16_is_faster, lambda: speed._measure("cpu", 4)])
def test_speed_is_measured_on_random_numbers(monkeypatch: pytest.MonkeyPatch, measure: Any) -> None:
    """Not on ones, of which a GPU computes products faster; and training's own are not drawn."""
    multiply, deviations = torch.Tensor.__matmul__, []

    def watched(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        deviations.append((a.float().std().item(), b.float().std().item()))
        return multiply(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    before = torch.random.get_rng_state()
    measure()
    assert deviations and all(0.9 < d < 1.1 for pair in deviations for d in pair)
    assert torch.equal(before, torch.random.get_rng_state())
