"""What ends a training although nothing was wrong at its start, in one line instead of a traceback.

Out of memory, and a model whose files cannot be had or are damaged. All else is a bug, and keeps
its traceback.
"""

import re
import sys
from types import TracebackType
from typing import Any

from safetensors import SafetensorError

from data_prep.hub import model_unavailable
from data_prep.machine import is_out_of_memory
from data_prep.recipe import Recipe


def end_in_one_line(recipe: Recipe) -> None:
    """From now on an error that the user can mend ends this process in one line, with code 2."""
    plain = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        words = in_words(recipe, error)
        if words is None:
            plain(kind, error, trace)
            return
        print(f"\nerror: {words}", file=sys.stderr, flush=True)  # a progress bar may be open
        raise SystemExit(2)

    sys.excepthook = hook


def in_words(recipe: Recipe, error: BaseException) -> str | None:
    """One line for an error that the user can mend, None for any other."""
    if is_out_of_memory(error):
        return out_of_memory(recipe, error)
    if isinstance(error, SafetensorError):
        return model_unavailable(recipe, error)
    if isinstance(error, OSError) and _is_of_a_model(error):
        return model_unavailable(recipe, error)
    return None


def out_of_memory(recipe: Recipe, error: BaseException) -> str:
    """Which three keys to change, in order; those that the recipe has already are left out."""
    asked = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
    wanted = f" ({asked[1]} more were wanted)" if asked else ""
    steps = "; ".join(f"{n}. {text}" for n, text in enumerate(smaller(recipe.config)[:3], 1))
    return f"{recipe.path}: memory ran out{wanted}; change, in this order, and start again: {steps}"


def smaller(config: dict[str, Any]) -> list[str]:
    """Changes that save memory, the one that costs least first."""
    found = []
    micro = int(config.get("micro_batch_size") or 1)
    accumulation = int(config.get("gradient_accumulation_steps") or 1)
    if micro > 1:
        factor = 2 if micro % 2 == 0 else micro
        found.append(
            f"`micro_batch_size: {micro // factor}` with `gradient_accumulation_steps: "
            f"{accumulation * factor}` (the same batch)"
        )
    if not config.get("gradient_checkpointing"):
        found.append("`gradient_checkpointing: true` (slower by about a third)")
    if not config.get("load_in_4bit"):
        found.append("`adapter: qlora` with `load_in_4bit: true` (a quarter of the weights' bytes)")
    length = int(config.get("sequence_len") or 512)
    found.append(
        f"`sequence_len: {length // 2}` (see in preflight how many rows are then too long)"
    )
    if "8bit" not in str(config.get("optimizer")):
        found.append("`optimizer: adamw_8bit` (10 bytes an adapter weight instead of 16)")
    found.append("a smaller `lora_r`")
    return found


def _is_of_a_model(error: OSError) -> bool:
    """Whether transformers or the hub's client raised it, and not the disk."""
    trace, raised_in = error.__traceback__, ""
    while trace:
        raised_in = trace.tb_frame.f_globals.get("__name__", "")
        trace = trace.tb_next
    return error.errno is None and raised_in.startswith(("transformers", "huggingface_hub"))
