"""Summaries of prepared rows by the base model and by the model with the recipe's adapter."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, load_peft_weights
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, GenerationConfig

from data_prep.axolotl_plugin import TRAINED_WITH, keep_freed_memory
from data_prep.errors import UserError
from data_prep.prompt import PromptEncoder, model_unavailable
from data_prep.recipe import Recipe


class Summarizer:
    """A base model, and its adapter once attached, that summarises rows in batches.

    Greedy, left-padded, longest prompts first; on a GPU in bf16, on a CPU in fp32. Prompts are
    token ids from Axolotl's own strategy, and a summary stops at the token that training put after
    it.
    """

    def __init__(self, recipe: Recipe):
        """Load the base model; raises UserError where it cannot be had."""
        self.recipe = recipe
        self.encoder = PromptEncoder(recipe)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        if self.device == "cpu":
            keep_freed_memory()
        try:
            self.model = AutoModelForCausalLM.from_pretrained(
                recipe.config["base_model"],
                revision=recipe.config.get("revision_of_model"),
                dtype=self.dtype,
                device_map=self.device,
            ).eval()
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(model_unavailable(recipe, error)) from error

    def attach_adapter(self) -> None:
        """Put the trained adapter on the base model; raises UserError where it does not fit."""
        folder = find_adapter(self.recipe)
        try:
            saved = load_peft_weights(str(folder), device="cpu").keys()
            self.model = PeftModel.from_pretrained(self.model, folder).eval()
            wanted = get_peft_model_state_dict(self.model).keys()
            if saved != wanted:  # PEFT would leave the others at zero, with a warning
                raise ValueError(f"{len(saved ^ wanted)} weights without a counterpart")
        except (OSError, RuntimeError, ValueError, LookupError, SafetensorError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{folder}: this adapter does not fit {self.recipe.config['base_model']} "
                f"({reason}); train it anew or set `output_dir`"
            ) from error
        if self.dtype == torch.float32:  # exact enough to merge; in bf16 merging would round
            self.model = self.model.merge_and_unload()

    def summarize(self, rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        """Yield, batch by batch, `{"id", "prediction", "tokens", "stopped"}` of each row.

        `tokens` counts what was generated, the end token included; `stopped` says whether that end
        token came before the limit of `max_new_tokens`.
        """
        settings = self.recipe.summarization.decoding
        _, labels = self.encoder.training_ids(rows[0])
        end = [label for label in labels if label != -100][-1]
        pad = self.encoder.tokenizer.pad_token_id
        pad = end if pad is None else pad
        self.model.generation_config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=settings.max_new_tokens,
            eos_token_id=end,
            pad_token_id=pad,
        )
        prompts = [(self.encoder.prompt_ids(row), row["id"]) for row in rows]
        prompts.sort(key=lambda prompt: -len(prompt[0]))
        for start in range(0, len(prompts), settings.batch_size):
            batch = prompts[start : start + settings.batch_size]
            outputs = self._generate([ids for ids, _ in batch], pad)
            yield [self._result(i, out, end) for (_, i), out in zip(batch, outputs, strict=True)]

    def _generate(self, prompts: list[list[int]], pad: int) -> list[list[int]]:
        """Left-pad, generate, and return the new ids, shape (batch, new tokens)."""
        width = max(map(len, prompts))
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=self.device)
        lengths = torch.tensor([len(p) for p in prompts], device=self.device)
        mask = torch.arange(width, device=self.device) >= width - lengths[:, None]
        with torch.inference_mode():
            output = self.model.generate(input_ids=ids, attention_mask=mask.long())
        return output[:, width:].tolist()

    def _result(self, row_id: str, output: list[int], end: int) -> dict[str, Any]:
        stopped = end in output
        length = output.index(end) + 1 if stopped else len(output)
        text = self.encoder.tokenizer.decode(output[:length], skip_special_tokens=True)
        return {"id": row_id, "prediction": text.strip(), "tokens": length, "stopped": stopped}


def find_adapter(recipe: Recipe) -> Path:
    """The folder of the recipe's adapter; raises UserError where there is none or another's."""
    folder = recipe.output_dir
    train = f"accelerate launch -m axolotl.cli.train {recipe.path}"
    if not (folder / "adapter_model.safetensors").is_file():
        raise UserError(
            f"{folder}: no trained adapter there; train one with `{train}`, or score the "
            "base model alone with `--models base`"
        )
    try:
        adapter = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        trained_on = Path(adapter["base_model_name_or_path"])
        prompt = folder / TRAINED_WITH  # not there where somebody else's adapter is evaluated
        instruction = (
            json.loads(prompt.read_text("utf-8"))["instruction"] if prompt.exists() else ""
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{folder}: its JSON files are damaged ({error}); run `{train}`") from error
    base_model = Path(recipe.config["base_model"])
    if trained_on not in (base_model, base_model.resolve()):
        raise UserError(
            f"{folder}: the adapter was trained on {trained_on}, but the recipe's base_model is "
            f"{base_model}; set the right one, or train with `{train}`"
        )
    if instruction not in ("", recipe.summarization.instruction):
        raise UserError(
            f"{folder}: the adapter was trained with another summarization.instruction; "
            f"set that one, or train with `{train}`"
        )
    return folder
