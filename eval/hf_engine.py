"""The default engine: transformers' `generate`, base and tuned model on one copy of the weights.

What makes it quick: large batches, attention that copies nothing (eval/attention.py), dialogues
that leave the batch once their summary has ended, and an adapter that is merged into the weights.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, load_peft_weights
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import AutoModelForCausalLM, GenerationConfig

from data_prep.axolotl_plugin import keep_freed_memory, use_all_cores
from data_prep.errors import UserError
from data_prep.prompt import model_unavailable
from data_prep.recipe import Decoding, Recipe
from eval.attention import use_grouped_attention

STRIDE = 8  # tokens between two looks at which summaries have ended


class HfEngine:
    """A base model, then the same weights with the adapter merged into them."""

    def __init__(self, recipe: Recipe, decoding: Decoding, end: int, pad: int):
        """Load the base model; raises UserError where it cannot be had.

        `decoding.dtype` is no longer `auto`; `end` and `pad` are token ids.
        """
        self.recipe, self.decoding, self.end, self.pad = recipe, decoding, end, pad
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
            ).eval()
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(model_unavailable(recipe, error)) from error
        use_grouped_attention(self.model)

    def attach_adapter(self, folder: Path) -> None:
        """Merge the adapter into the weights; raises UserError where it does not fit."""
        if self.tuned:
            return
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
        self.model = model.merge_and_unload()
        self.tuned = True

    def generate(self, prompts: list[list[int]], seed: int) -> list[list[int]]:
        """New token ids of each prompt, in their order, the end token and padding included.

        Where memory runs out the batch is halved, and every later one too.
        """
        while True:
            size = -(-len(prompts) // self.pieces)
            outputs: list[list[int]] = []
            try:
                for start in range(0, len(prompts), size):
                    torch.manual_seed(seed + start)
                    outputs += self._generate(prompts[start : start + size])
                return outputs
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                if size == 1:
                    raise UserError(
                        f"{self.recipe.path}: memory runs out on a single dialogue of "
                        f"{len(prompts[0])} tokens; free memory or choose a smaller model"
                    ) from error
            self.pieces *= 2  # outside the handler, whose traceback holds the batch's tensors
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            size = -(-len(prompts) // self.pieces)
            tqdm.write(f"memory ran out: going on with {size} dialogues at a time", file=sys.stderr)

    @torch.inference_mode()
    def _generate(self, prompts: list[list[int]]) -> list[list[int]]:
        width = max(map(len, prompts))
        ids = torch.tensor([[self.pad] * (width - len(p)) + p for p in prompts], device=self.device)
        lengths = torch.tensor([len(p) for p in prompts], device=self.device)
        mask = (torch.arange(width, device=self.device) >= width - lengths[:, None]).long()
        outputs: list[list[int]] = [[] for _ in prompts]
        rows, cache, done = torch.arange(len(prompts)), None, 0
        while len(rows) and done < self.decoding.max_new_tokens:
            output = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=cache,
                generation_config=self._config(done),
            )
            new = output.sequences[:, width:]
            for row, made in zip(rows.tolist(), new.tolist(), strict=True):
                outputs[row] = made
            done = new.shape[1]
            if self.decoding.num_beams > 1:  # beams cannot be taken up again
                break
            open_ = (new != self.end).all(dim=1).cpu().nonzero()[:, 0]
            rows, ids, cache = rows[open_], output.sequences[open_], output.past_key_values
            mask = torch.nn.functional.pad(mask[open_], (0, ids.shape[1] - mask.shape[1]), value=1)
            cache.batch_select_indices(open_.to(self.device))
        return outputs

    def _config(self, done: int) -> GenerationConfig:
        """Settings of the next tokens after `done` new ones."""
        chosen = self.decoding
        settings: dict[str, Any] = {"do_sample": chosen.do_sample, "num_beams": chosen.num_beams}
        if chosen.do_sample:
            settings |= {"temperature": chosen.temperature, "top_p": chosen.top_p}
            settings |= {"top_k": chosen.top_k}
        if chosen.num_beams > 1:
            settings |= {"length_penalty": chosen.length_penalty}
        left = chosen.max_new_tokens - done
        step = left if chosen.num_beams > 1 else min(STRIDE, left)
        return GenerationConfig(
            max_new_tokens=step,
            min_new_tokens=min(step, max(0, chosen.min_new_tokens - done)) or None,
            no_repeat_ngram_size=chosen.no_repeat_ngram_size,
            repetition_penalty=chosen.repetition_penalty,
            eos_token_id=self.end,
            pad_token_id=self.pad,
            return_dict_in_generate=True,
            **settings,
        )


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return "can't allocate memory" in str(error)  # how PyTorch's CPU allocator says it
