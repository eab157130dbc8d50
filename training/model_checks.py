"""Whether a recipe fits its base model: attention, LoRA's targets, end token, tokenizer.

Where it does not, training ends in a traceback or, worse, learns nothing of what was asked.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.hub import empty_model, snapshot
from data_prep.recipe import Recipe

# What each kind of attention needs of a model's class; `eager` needs nothing.
ATTENTION = {"sdpa": "_supports_sdpa", "flash": "_supports_flash_attn",
             "flex": "_supports_flex_attn"}  # fmt: skip
OLD_ATTENTION = {"flash_attention": "flash_attention_2", "sdp_attention": "sdpa",
                 "flex_attention": "flex_attention"}  # fmt: skip
# Rows of tokens that no training text held keep one direction, as in "Fishing for Magikarp" (Land
# and Bartolo, 2024). SmolLM2-135M-Instruct: above 0.9999 for those, 0.991 for the end token, that
# only the last stage of its training held, at most 0.974 for 2,000 other tokens.
UNTRAINED = 0.999
CHUNK = 8192  # rows of the matrix that are read at once
ROUND_TRIP = ("Hello world", "Ana: see you at 7:30 tomorrow, ok?", "Zoë's café: 12 €\nBob: fine!")


def check_model(recipe: Recipe, tokenizer: Any, end: int) -> tuple[list[str], list[str]]:
    """What is wrong, a line each, and what else is to be said.

    `end`: id of the token that ends a summary in training. Raises UserError where the model's
    configuration cannot be read.
    """
    model = empty_model(recipe)
    reached, targets = _targets(recipe.config, model)
    problems = [*_attention(recipe.config, model), *targets, *_round_trip(tokenizer),
                *_end(recipe.config, model, end, tokenizer.convert_ids_to_tokens(end))]  # fmt: skip
    return [f"{recipe.path}: {problem}" for problem in problems], reached


def _attention(config: dict[str, Any], model: Any) -> Iterator[str]:
    chosen = str(config.get("attn_implementation") or "")
    chosen = chosen or next((new for old, new in OLD_ATTENTION.items() if config.get(old)), "")
    needs = next((needs for kind, needs in ATTENTION.items() if chosen.startswith(kind)), None)
    if needs and not getattr(model, needs, True):
        other = "sdpa" if model._supports_sdpa else "eager"
        yield (
            f"attn_implementation: {chosen}: {type(model).__name__} does not support it; "
            f"set `attn_implementation: {other}`"
        )
    capped = getattr(model.config.get_text_config(), "attn_logit_softcapping", None)
    if capped and not chosen.startswith(("eager", "flash", "flex")):
        yield (
            f"attn_implementation: {chosen or 'sdpa, the default,'} leaves out the soft-capping of "
            f"{type(model).__name__}; set `attn_implementation: eager`"
        )


def _targets(config: dict[str, Any], model: Any) -> tuple[list[str], list[str]]:
    """Sentences on what LoRA changes, and the problem of names that match nothing."""
    import torch
    from axolotl.loaders.adapter import load_lora
    from axolotl.utils.dict import DictDefault
    from peft.tuners.tuners_utils import check_target_module_exists

    if config.get("adapter") not in ("lora", "qlora"):
        return [], []
    with_dropout = {"lora_dropout": 0.0, **config}  # Axolotl's default, which PEFT needs
    settings: Any = load_lora(model, DictDefault(with_dropout), config_only=True)[1]
    targets, modules = settings.target_modules or [], dict(model.named_modules())
    if isinstance(targets, str):  # a regular expression
        found = [name for name in modules if check_target_module_exists(settings, name)]
        wanted = {targets: len(found)}
    else:
        names = [*sorted(targets), *(settings.modules_to_save or [])]
        wanted = {n: sum(m == n or m.endswith(f".{n}") for m in modules) for n in names}
    missing = [name for name, count in wanted.items() if not count]
    shapes = {name: weight.dim() for name, weight in model.named_parameters()}
    experts = sorted({".".join(n.split(".")[-2:]) for n, axes in shapes.items() if axes == 3})
    if not missing:
        said = ", ".join(f"{name} {count}" for name, count in wanted.items())
        lines = [f"the adapter changes {said} modules"]
        if experts and not settings.target_parameters:
            lines.append(
                f"the experts ({', '.join(experts)}) stay as they are: they are parameters, which "
                "`lora_target_parameters` names"
            )
        return lines, []
    head = model.get_output_embeddings()
    linear = Counter(
        name.rpartition(".")[2]
        for name, module in modules.items()
        if isinstance(module, torch.nn.Linear) and module is not head
    )
    there = ", ".join(f"{name} {count}" for name, count in linear.items())
    if experts:
        there += f" (experts, for lora_target_parameters: {', '.join(experts)})"
    return [], [
        f"{', '.join(missing)} in lora_target_modules or lora_modules_to_save: {len(missing)} of "
        f"{len(wanted)} names match no module of {type(model).__name__}; its linear layers are "
        f"{there}: name some of them, or set `lora_target_linear: true` in place of the names"
    ]


def _end(config: dict[str, Any], model: Any, end: int, token: str) -> Iterator[str]:
    """The end token's row of the output embedding was never trained, and will not be either."""
    tied = model.config.get_text_config().tie_word_embeddings
    head = model.get_input_embeddings() if tied else model.get_output_embeddings()
    name = next(name for name, module in model.named_modules() if module is head)
    last = name.rpartition(".")[2]
    chosen = config.get("peft_trainable_token_indices") or []
    chosen = [chosen] if isinstance(chosen, list) else chosen.values()
    targets = config.get("lora_target_modules") or []
    adapted = [targets] if isinstance(targets, str) else targets
    adapted = [*adapted, *(config.get("lora_modules_to_save") or [])]
    if not config.get("adapter") or last in adapted or any(end in ids for ids in chosen):
        return
    if looks_untrained(config, f"{last}.weight", end):
        key = f"[{end}]" if tied else f"{{{last}: [{end}]}}"
        yield (
            f"the model never learnt {token!r}, which ends a summary: its row of {last} is that of "
            f"other unused tokens, and LoRA leaves it so; add `peft_trainable_token_indices: {key}`"
        )


def looks_untrained(config: dict[str, Any], name: str, row: int) -> bool:
    """Whether a row of a base model's matrix is zero, or has the direction of another row.

    `name`: how the matrix's name ends. False where its file is not on this disk, or is no
    safetensors file.
    """
    import torch
    from safetensors import safe_open

    base = str(config["base_model"])
    folder = Path(base) if Path(base).is_dir() else snapshot(base, config)
    for path in sorted(folder.glob("*.safetensors")) if folder else []:
        with safe_open(path, "pt") as file:
            for found in (key for key in file.keys() if key.endswith(name)):  # noqa: SIM118
                matrix = file.get_slice(found)
                rows = matrix.get_shape()[0]
                if row >= rows:  # the tokenizer has more tokens than the model
                    return True
                own = matrix[row : row + 1].float()
                if not own.any():
                    return True
                for start in range(0, rows, CHUNK):
                    part = matrix[start : start + CHUNK].float()
                    alike = torch.nn.functional.cosine_similarity(part, own)
                    if start <= row < start + len(part):
                        alike[row - start] = 0
                    if alike.max() > UNTRAINED:
                        return True
    return False


def _round_trip(tokenizer: Any) -> Iterator[str]:
    """The tokenizer gives a text back; a badly converted one does not, and raises no error."""
    for text in ROUND_TRIP:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        back = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        if back.strip() != text:
            yield (
                f"the tokenizer of {tokenizer.name_or_path} turns {text!r} into {back!r}; take the "
                "model's own tokenizer files (one converted from GGUF may be wrong)"
            )
            return
