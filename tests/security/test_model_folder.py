"""Unusual references in a model's config.json: to code on the Hub and to other files."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.errors import UserError
from data_prep.hub import model_arguments
from data_prep.recipe import load_recipe
from eval.adapter import ADAPTER, find_adapter
from eval.signature import _model_hash
from tests.conftest import ROOT


@pytest.mark.parametrize(
    "named",
    [
        {"_attn_implementation": "someone/kernel"},
        {
            "_attn_implementation": {
                "": "sdpa",
                "text_config": "paged|kernels-community/flash-attn2",
            }
        },
        {"text_config": {"_attn_implementation": "someone/kernel@main:attention"}},
    ],
)
def test_a_kernel_from_the_hub_is_not_loaded(named: dict[str, Any], tmp_path: Path) -> None:
    config = {"base_model": str(tmp_path)}
    (tmp_path / "config.json").write_text(json.dumps({"_attn_implementation": "sdpa"}))
    assert model_arguments(config)["trust_remote_code"] is False
    (tmp_path / "config.json").write_text(json.dumps(named))
    with pytest.raises(UserError, match="config.json: .*selects code on the Hub"):
        model_arguments(config)


def test_an_adapter_that_lists_other_adapters_is_not_loaded(tmp_path: Path) -> None:
    """PEFT would download them from the Hub, and no hash would cover them."""
    recipe = load_recipe(ROOT / "recipes/smollm2_samsum.yml")
    config = {"peft_type": "XLORA", "base_model_name_or_path": recipe.config["base_model"]}
    (tmp_path / ADAPTER).write_text("")
    (tmp_path / "adapter_config.json").write_text(
        json.dumps(config | {"hidden_size": 16, "adapters": {"0": "someone/adapter"}})
    )
    with pytest.raises(UserError, match="`adapters` of XLORA lists other folders"):
        find_adapter(recipe, tmp_path)


@pytest.mark.parametrize("name", ["sub/own.safetensors", "sub/own.safetensors.index.json"])
def test_weights_named_in_the_config_are_hashed(name: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "config.json").write_text(json.dumps({"transformers_weights": name}))
    (tmp_path / "model.safetensors").write_text("not read")
    (tmp_path / "sub/own.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "sub/own.safetensors"}})
    )
    hashes = []
    for content in ("one", "other"):
        (tmp_path / "sub/own.safetensors").write_text(content)
        hashes.append(_model_hash(str(tmp_path), None))
    assert hashes[0] != hashes[1]
