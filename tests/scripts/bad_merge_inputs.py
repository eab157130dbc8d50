"""What can be wrong with what is to be merged, and the words that must say so."""

from collections.abc import Callable

from safetensors.torch import load_file, save_file

from data_prep.recipe import Recipe


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
