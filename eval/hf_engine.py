"""The default engine: transformers' `generate`, base and tuned model on one copy of the weights.

It is fast because prompts are read in groups and continued together (`eval/kv_cache.py`), finished
summaries leave the batch (`generate`), attention for a new token copies no keys and values
(`grouped_attention`), and the adapter is merged into the weights. A base model that is trained in 4
or 8 bits is also evaluated in them, with the adapter beside the weights, since a merge would round
it. The adapter also stays beside the weights if it changes tied embeddings.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, load_peft_weights
from safetensors import SafetensorError
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GenerationConfig,
    StoppingCriteriaList,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from data_prep.console import say
from data_prep.errors import UserError
from data_prep.hub import check_weights, model_arguments, model_unavailable
from data_prep.machine import (
    avoid_cudnn_attention,
    free_memory,
    is_out_of_memory,
    keep_freed_memory,
    use_all_cores,
)
from data_prep.recipe import Recipe
from data_prep.settings import Decoding
from eval.kv_cache import can_be_joined, depends_on_others, read_prompts, shared_tokens
from eval.signature import attention, quantization

ATTENTION_NAME = "grouped_sdpa"
STRIDE = 8  # new tokens after which finished summaries leave the batch
Ids = list[list[int]]


@dataclass(frozen=True)
class Settings:
    """Settings of generation; `ends` and `pad` are token ids, `device` is where prompts go.

    `watch`: called after each new token with the first prompt's new tokens; may raise to stop.
    """

    decoding: Decoding
    ends: list[int]
    pad: int
    device: str | torch.device
    watch: Callable[[list[int]], None] | None = None


class HfEngine:
    """A base model; after `attach_adapter`, its weights with the adapter merged in or beside."""

    def __init__(
        self, recipe: Recipe, decoding: Decoding, ends: list[int], pad: int, vocabulary: int
    ):
        """Load the base model; raises UserError if it cannot be loaded.

        `decoding.dtype` must not be `auto`; `ends` and `pad` are token ids; `vocabulary` is the
        number of the tokenizer's tokens: the embeddings grow to it if the recipe adds tokens.
        """
        self.recipe, self.decoding, self.ends, self.pad = recipe, decoding, ends, pad
        self.pieces = 1  # parts that a batch is split into; doubled when memory runs out
        self.tuned = self.merged = False
        self.watch: Callable[[list[int]], None] | None = None  # see `Settings`; set by chat's page
        self.device = "cpu"
        if torch.cuda.is_available():
            self.device = f"cuda:{torch.cuda.current_device()}"
            avoid_cudnn_attention()
        else:
            use_all_cores()
            keep_freed_memory()
        config = recipe.config
        try:
            self.model = AutoModelForCausalLM.from_pretrained(
                config["base_model"],
                **model_arguments(config),
                dtype=getattr(torch, decoding.dtype),
                device_map=self.device,
                quantization_config=_quantization(config, decoding.dtype),
                attn_implementation=attention(config),
            ).eval()
        except Exception as error:
            if is_out_of_memory(error):
                raise UserError(_no_room(recipe, "base model")) from error
            if isinstance(error, (EOFError, UnpicklingError)):  # these do not name the damaged file
                damaged = check_weights(recipe)[0] or [model_unavailable(recipe, error)]
                raise UserError(damaged[0]) from error
            if isinstance(error, (OSError, ValueError, SafetensorError)):
                raise UserError(model_unavailable(recipe, error)) from error
            raise
        self.model.generation_config = GenerationConfig()  # no defaults of the model's own
        if getattr(self.model.config.get_text_config(), "attn_logit_softcapping", None):
            self.model.set_attn_implementation("eager")  # sdpa omits soft-capping (Gemma 2)
        if config.get("resize_token_embeddings_to_32x"):
            vocabulary = -(-vocabulary // 32) * 32
        if vocabulary > self.model.get_input_embeddings().num_embeddings:  # as Axolotl does
            torch.manual_seed(0)
            self.model.resize_token_embeddings(vocabulary)
        use_grouped_attention(self.model)

    def attach_adapter(self, folder: Path) -> None:
        """Merge the adapter, or keep it beside the weights; raises UserError if it does not fit."""
        if self.tuned:
            return
        base = self.model
        model = self.attach_beside(folder)
        adapted = get_peft_model_state_dict(model)
        if not (quantization(self.recipe.config) or adapted_tied_embeddings(base, adapted)):
            self.model = model.merge_and_unload()
            self.merged = True

    def attach_beside(self, folder: Path) -> PeftModel:
        """Load the adapter beside the weights; raises UserError if it does not fit.

        Inside `disable_adapter()` of the returned model, `generate` uses the base model.
        """
        try:
            saved = adapter_weight_names(load_peft_weights(str(folder), device="cpu"))
            model = PeftModel.from_pretrained(self.model, folder).eval()
            expected = adapter_weight_names(get_peft_model_state_dict(model))
            if saved != expected:  # PEFT would only warn, and leave missing weights at zero
                raise ValueError(f"{len(saved ^ expected)} weights without a counterpart")
        except (
            OSError, RuntimeError, MemoryError, ValueError, LookupError, SafetensorError
        ) as error:  # fmt: skip
            if is_out_of_memory(error):
                raise UserError(_no_room(self.recipe, "adapter")) from error
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{folder}: this adapter does not fit {self.recipe.config['base_model']} "
                f"({reason}); train it again or set `output_dir`"
            ) from error
        self.model = model.get_base_model()
        self.tuned = True
        return model

    @torch.inference_mode()
    def generate(self, prompts: list[list[int]], seed: int) -> list[list[int]]:
        """Return the new token ids of each prompt, in order, with the end token and padding.

        If memory runs out, this batch and all later ones are halved.
        """
        settings = Settings(self.decoding, self.ends, self.pad, self.device, self.watch)
        make = partial(generate, self.model, settings=settings)
        outputs, self.pieces = run_within_memory(make, prompts, seed, self.pieces, self.recipe.path)
        return outputs


def _no_room(recipe: Recipe, what: str) -> str:
    fix = "free memory or choose a smaller model"
    return f"{recipe.path}: memory runs out while the {what} is loaded; {fix}"


def adapter_weight_names(names: Iterable[str]) -> set[str]:
    """Return the names without the duplicates that PEFT saves if an adapter adds tokens."""
    return {n for n in names if ".modules_to_save." not in n and ".original_module." not in n}


def adapted_tied_embeddings(model: Any, adapted: Iterable[str]) -> list[str]:
    """Return the names of tied input and output embeddings that an adapter changes.

    `adapted`: names of the adapter's weights. A merge would change both embeddings.
    """
    if not model.config.get_text_config().tie_word_embeddings:
        return []
    embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
    tied_names = [name for name, module in model.named_modules() if module in embeddings]
    return [tied for tied in tied_names if any(f".{tied}." in name for name in adapted)]


def _quantization(config: dict[str, Any], dtype: str) -> BitsAndBytesConfig | None:
    """Return the quantisation that Axolotl uses in training; None if the recipe has none."""
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


@torch.no_grad()
def generate(model: Any, prompts: Ids, settings: Settings) -> Ids:
    """Return the new token ids of each prompt, in order, with the end token and padding."""
    device, width = settings.device, max(map(len, prompts))
    one_by_one = depends_on_others(model, width + settings.decoding.max_new_tokens)
    if one_by_one and len(prompts) > 1:
        return [generate(model, [prompt], settings)[0] for prompt in prompts]
    # padded with a prompt token: a repetition penalty counts padding, and must not see an end token
    ids = torch.tensor([p[:1] * (width - len(p)) + p for p in prompts], device=device)
    # generate cannot continue a beam search
    in_one_call = settings.decoding.num_beams > 1 or one_by_one or not can_be_joined(model)
    stride, shared = (0, 0) if in_one_call else (STRIDE, shared_tokens(model, prompts))
    positions = torch.arange(width, device=device)
    starts = torch.tensor([[width - len(p) + shared] for p in prompts], device=device)
    mask = ((positions < shared) | (positions >= starts)).long()
    outputs: Ids = [[] for _ in prompts]
    rows, cache, generated = torch.arange(len(prompts)), None, 0
    if not in_one_call and width > 1:
        beginning = torch.tensor([prompts[0][:shared]], device=device)
        cache = read_prompts(model, beginning, ids, mask, settings.decoding.max_new_tokens)
    while len(rows) and generated < settings.decoding.max_new_tokens:
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            generation_config=_config(settings, generated, stride),
            stopping_criteria=_watched(settings, width),
        )
        new_ids = output.sequences[:, width:]
        for row, tokens in zip(rows.tolist(), new_ids.tolist(), strict=True):
            outputs[row] = tokens
        generated = new_ids.shape[1]
        if in_one_call:
            break
        ended = torch.isin(new_ids, torch.tensor(settings.ends, device=device)).any(dim=1)
        remaining = compacted_rows((~ended).tolist())
        rows, ids, cache = rows[remaining], output.sequences[remaining], output.past_key_values
        mask = torch.nn.functional.pad(mask[remaining], (0, ids.shape[1] - mask.shape[1]), value=1)
        cache.batch_select_indices(remaining.to(device))
    return outputs


def _watched(settings: Settings, width: int) -> StoppingCriteriaList | None:
    """Return a criterion that calls `settings.watch` and never stops; None if it is not set."""
    watch = settings.watch
    if watch is None:
        return None

    def call_watch(ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        watch(ids[0, width:].tolist())
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    return StoppingCriteriaList([call_watch])


def compacted_rows(open_: list[bool]) -> torch.Tensor:
    """Return the numbers of the open rows; the last ones take the places of finished rows."""
    count = sum(open_)
    late = [row for row in range(count, len(open_)) if open_[row]]
    return torch.tensor(
        [row if open_[row] else late.pop() for row in range(count)], dtype=torch.long
    )


def run_within_memory(
    make: Callable[[Ids], Ids], prompts: Ids, seed: int, pieces: int, recipe: Path
) -> tuple[Ids, int]:
    """Call `make` on the prompts in `pieces` parts; return its outputs and the parts it took.

    If memory runs out, the parts are halved; raises UserError, with the recipe's path, if a single
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
        pieces *= 2  # outside the except block, whose traceback keeps the batch's tensors alive
        free_memory()
        size = -(-len(prompts) // pieces)
        say(f"memory ran out: continuing with {size} dialogues at a time", error=True)


def _config(settings: Settings, generated: int, stride: int) -> GenerationConfig:
    """Return settings for the next `stride` tokens after `generated` new ones; 0: the rest."""
    decoding = settings.decoding
    options: dict[str, Any] = {"do_sample": decoding.do_sample, "num_beams": decoding.num_beams}
    if decoding.do_sample:
        options |= {"temperature": decoding.temperature, "top_p": decoding.top_p}
        options |= {"top_k": decoding.top_k}
    if decoding.num_beams > 1:
        options |= {"length_penalty": decoding.length_penalty}
    remaining = decoding.max_new_tokens - generated
    step = min(stride, remaining) if stride else remaining
    return GenerationConfig(
        max_new_tokens=step,
        min_new_tokens=min(step, max(0, decoding.min_new_tokens - generated)) or None,
        no_repeat_ngram_size=decoding.no_repeat_ngram_size,
        repetition_penalty=decoding.repetition_penalty,
        eos_token_id=settings.ends,
        pad_token_id=settings.pad,
        use_cache=True,  # a model in training has it off in its config
        return_dict_in_generate=True,
        **options,
    )


def use_grouped_attention(model: Any) -> None:
    """Switch a model from transformers' `sdpa` to `grouped_attention`; leave other attentions."""
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(ATTENTION_NAME, grouped_attention)
        AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
        model.set_attn_implementation(ATTENTION_NAME)


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention for one new token; all else goes to transformers' own function.

    Shapes: query (batch, heads, length, width), key and value (batch, key heads, all, width), mask
    (batch, 1, length, all); returns (batch, length, heads, width).
    """
    if attention_mask is None or query.shape[2] > 1 or attention_mask.shape[1] > 1:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    batch, heads, _, width = query.shape
    key_heads = key.shape[1]
    groups = heads // key_heads
    output = scaled_dot_product_attention(
        query.reshape(batch, key_heads, groups, width),
        key,
        value,
        attn_mask=attention_mask.expand(-1, -1, groups, -1),
        scale=scaling,
    )
    return output.reshape(batch, 1, heads, value.shape[-1]), None
