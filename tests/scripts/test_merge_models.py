"""Merging models of other recipes on a CPU: those for GPUs, and the real small model."""

from pathlib import Path

import pytest

from tests.conftest import command
from tests.scripts.tiny_merge import proof_of, tiny_recipe


@pytest.mark.slow
@pytest.mark.parametrize("of", ["mistral_samsum", "mistral_samsum_qlora"])
def test_a_recipe_for_gpus_is_merged_on_a_cpu(of: str, tmp_path: Path, tiny_mistral: Path) -> None:
    """Keys that training refuses on a CPU are no hindrance; 4-bit weights are rounded alike."""
    recipe = tiny_recipe(tmp_path, tiny_mistral, of)
    done = command("python", "-m", "scripts.merge", recipe.path, "--dialogues", "4")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    proof = proof_of(recipe.output_dir / "merged")
    assert proof["good"] and proof["made_of"]["quantized"] == ("nf4" if "qlora" in of else None)
    assert ("embeddings and head too" in proof["compared"]) is ("qlora" in of)


@pytest.mark.slow
def test_the_real_model_with_a_random_adapter(tmp_path: Path, smollm2: Path) -> None:
    recipe = tiny_recipe(tmp_path, smollm2)
    for flags in ([], ["--dtype", "bfloat16"]):
        done = command("python", "-m", "scripts.merge", recipe.path, "--dialogues", "4", *flags)
        assert done.returncode == 0, done.stdout + done.stderr[-3000:]
        assert proof_of(recipe.output_dir / "merged")["good"] is True
