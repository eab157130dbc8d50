"""The default engine: transformers' `generate`, base and tuned model on one copy of the weights.

What makes it quick: the loop of eval/generation.py, attention that copies nothing
(eval/attention.py), and an adapter that is merged into the weights. A base model that is trained in
4 or 8 bits is evaluated in them too, with the adapter beside it: merging would round it to them.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, load_peft_weights
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from data_prep.cpu import keep_freed_memory, use_all_cores
from data_prep.errors import UserError
from data_prep.recipe import Decoding, Recipe
from data_prep.unavailable import model_unavailable
from eval.attention import use_grouped_attention
from eval.generation import Settings, generate, within_memory
from eval.signature import quantization


class HfEngine:
    """A base model, then the same weights with the adapter merged into them, or beside them."""

    def __init__(
        self, recipe: Recipe, decoding: Decoding, end: int, pad: int, beside: bool = False
    ):
        """Load the base model; raises UserError where it cannot be had.

        `decoding.dtype` is no longer `auto`; `end` and `pad` are token ids; `beside` leaves the
        adapter out of the weights.
        """
        self.recipe, self.decoding, self.end, self.pad = recipe, decoding, end, pad
        self.beside = beside or quantization(recipe.config) is not None
        self.pieces = 1  # in how many parts a batch goes; doubled where memory ran out
        self.tuned = False
        self.device = "cpu"
        if torch.cuda.is_available():
            self.device = f"cuda:{torch.cuda.current_device()}"
        else:
            use_all_cores()
            keep_freed_memory()
        try:
            self.model = AutoModelForCausalLM.from_pretrained(
                recipe.config["base_model"],
                revision=recipe.config.get("revision_of_model"),
                dtype=getattr(torch, decoding.dtype),
                device_map=self.device,
                quantization_config=_quantization(recipe.config, decoding.dtype),
            ).eval()
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(model_unavailable(recipe, error)) from error
        use_grouped_attention(self.model)

    def attach_adapter(self, folder: Path) -> None:
        """Merge the adapter in, or put it beside; raises UserError where it does not fit."""
        if self.tuned:
            return
        model = self.attach_beside(folder)
        if not self.beside:
            self.model = model.merge_and_unload()

    def attach_beside(self, folder: Path) -> PeftModel:
        """Put the adapter beside the weights; raises UserError where it does not fit.

        Inside `disable_adapter()` of what is returned, `generate` is the base model's.
        """
        try:
            saved = load_peft_weights(str(folder), device="cpu").keys()
            model = PeftModel.from_pretrained(self.model, folder).eval()
            wanted = get_peft_model_state_dict(model).keys()
            if saved != wanted:  # PEFT would leave the others at zero, with a warning
                raise ValueError(f"{len(saved ^ wanted)} weights without a counterpart")
        except (OSError, RuntimeError, ValueError, LookupError, SafetensorError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{folder}: this adapter does not fit {self.recipe.config['base_model']} "
                f"({reason}); train it anew or set `output_dir`"
            ) from error
        self.model = model.get_base_model()
        self.tuned = True
        return model

    @torch.inference_mode()
    def generate(self, prompts: list[list[int]], seed: int) -> list[list[int]]:
        """New token ids of each prompt, in their order, the end token and padding included.

        Where memory runs out the batch is halved, and every later one too.
        """
        settings = Settings(self.decoding, self.end, self.pad, self.device)
        make = partial(generate, self.model, settings=settings)
        outputs, self.pieces = within_memory(make, prompts, seed, self.pieces, self.recipe.path)
        return outputs


def _quantization(config: dict[str, Any], dtype: str) -> BitsAndBytesConfig | None:
    """As Axolotl quantises for training; None for a base model that is not quantised."""
    kind = quantization(config)
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    if kind is None:
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
