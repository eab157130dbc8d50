"""Whether an adapter fits its base model, by names and shapes alone: seconds, and no weights."""

import json
from pathlib import Path

import torch

from data_prep.errors import UserError
from data_prep.recipe import Recipe
from data_prep.unavailable import model_unavailable


def check_fit(recipe: Recipe, adapter: Path) -> None:
    """Raise UserError where weights of the adapter go nowhere, or are of another shape.

    Axolotl's merge leaves out, in silence, whatever finds no place.
    """
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open
    from transformers import AutoConfig, AutoModelForCausalLM

    base_model, revision = recipe.config["base_model"], recipe.config.get("revision_of_model")
    try:
        config = AutoConfig.from_pretrained(base_model, revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(model_unavailable(recipe, error)) from error
    try:
        settings = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
        with safe_open(adapter / "adapter_model.safetensors", framework="pt") as file:
            names = file.keys()
            saved = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        if settings.get("peft_type") != "LORA":
            raise ValueError(f"it is {settings.get('peft_type')}, and only LORA is merged here")
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
            model = get_peft_model(model, LoraConfig.from_pretrained(str(adapter)))
        wanted = {k: tuple(v.shape) for k, v in get_peft_model_state_dict(model).items()}
        if saved != wanted:
            wrong = sorted(key for key, _ in saved.items() ^ wanted.items())
            raise ValueError(f"{wrong[0]} has no counterpart of its shape")
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{adapter}: this adapter does not fit {base_model} ({reason}); train it anew or set "
            "`output_dir`"
        ) from error
