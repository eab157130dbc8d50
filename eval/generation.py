"""How a transformers model continues prompts: the loop behind evaluation and ROUGE in training.

What makes it quick: large batches whose dialogues leave once their summary has ended. The model is
anyone's: one that was loaded for it (eval/hf_engine.py), or one that is being trained.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import GenerationConfig

from data_prep.cpu import is_out_of_memory
from data_prep.errors import UserError
from data_prep.recipe import Decoding

STRIDE = 8  # tokens between two looks at which summaries have ended

Ids = list[list[int]]


@dataclass(frozen=True)
class Settings:
    """What a model is asked for; `end` and `pad` are token ids, `device` is where prompts go."""

    decoding: Decoding
    end: int
    pad: int
    device: str | torch.device


@torch.no_grad()
def generate(model: Any, prompts: Ids, settings: Settings) -> Ids:
    """New token ids of each prompt, in their order, the end token and padding included."""
    device, width = settings.device, max(map(len, prompts))
    ids = torch.tensor([[settings.pad] * (width - len(p)) + p for p in prompts], device=device)
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    mask = (torch.arange(width, device=device) >= width - lengths[:, None]).long()
    outputs: Ids = [[] for _ in prompts]
    rows, cache, done = torch.arange(len(prompts)), None, 0
    while len(rows) and done < settings.decoding.max_new_tokens:
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            generation_config=_config(settings, done),
        )
        new = output.sequences[:, width:]
        for row, made in zip(rows.tolist(), new.tolist(), strict=True):
            outputs[row] = made
        done = new.shape[1]
        if settings.decoding.num_beams > 1:  # beams cannot be taken up again
            break
        open_ = (new != settings.end).all(dim=1).cpu().nonzero()[:, 0]
        rows, ids, cache = rows[open_], output.sequences[open_], output.past_key_values
        mask = torch.nn.functional.pad(mask[open_], (0, ids.shape[1] - mask.shape[1]), value=1)
        cache.batch_select_indices(open_.to(device))
    return outputs


def within_memory(
    make: Callable[[Ids], Ids], prompts: Ids, seed: int, pieces: int, recipe: Path
) -> tuple[Ids, int]:
    """What `make` gives for the prompts in `pieces` parts, and in how many parts they then went.

    Where memory runs out the parts are halved; raises UserError, naming the recipe, where a single
    dialogue does not fit.
    """
    while True:
        size = -(-len(prompts) // pieces)
        outputs: Ids = []
        try:
            for start in range(0, len(prompts), size):
                torch.manual_seed(seed + start)
                outputs += make(prompts[start : start + size])
            return outputs, pieces
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise UserError(
                    f"{recipe}: memory runs out on a single dialogue of {len(prompts[0])} tokens; "
                    "free memory or choose a smaller model"
                ) from error
        pieces *= 2  # outside the handler, whose traceback holds the batch's tensors
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        size = -(-len(prompts) // pieces)
        tqdm.write(f"memory ran out: going on with {size} dialogues at a time", file=sys.stderr)


def _config(settings: Settings, done: int) -> GenerationConfig:
    """Settings of the next tokens after `done` new ones."""
    chosen = settings.decoding
    special: dict[str, Any] = {"do_sample": chosen.do_sample, "num_beams": chosen.num_beams}
    if chosen.do_sample:
        special |= {"temperature": chosen.temperature, "top_p": chosen.top_p}
        special |= {"top_k": chosen.top_k}
    if chosen.num_beams > 1:
        special |= {"length_penalty": chosen.length_penalty}
    left = chosen.max_new_tokens - done
    step = left if chosen.num_beams > 1 else min(STRIDE, left)
    return GenerationConfig(
        max_new_tokens=step,
        min_new_tokens=min(step, max(0, chosen.min_new_tokens - done)) or None,
        no_repeat_ngram_size=chosen.no_repeat_ngram_size,
        repetition_penalty=chosen.repetition_penalty,
        eos_token_id=settings.end,
        pad_token_id=settings.pad,
        use_cache=True,  # a model in training says no
        return_dict_in_generate=True,
        **special,
    )
