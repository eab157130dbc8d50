"""Summaries of prepared rows by the base model and by the model with the recipe's adapter."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from data_prep.prompt import PromptEncoder, to_row
from data_prep.recipe import Recipe
from data_prep.settings import Decoding

Row = dict[str, Any]
MOST_PADDING = 0.15  # of a batch's prompt tokens


class Engine(Protocol):
    """What generates: base model first, the tuned one after `attach_adapter`."""

    def attach_adapter(self, folder: Path) -> None:
        """Go on with the adapter of `folder`."""

    def generate(self, prompts: list[list[int]], seed: int) -> list[list[int]]:
        """New token ids of each prompt."""


class Summarizer:
    """Prompts from training's own code path, an engine loaded once, and text from its ids."""

    def __init__(
        self,
        recipe: Recipe,
        decoding: Decoding,
        rows: list[Row],
        adapter: Path | None,
        engine: Callable[[Recipe, Decoding, int, int], Any] | None = None,
    ):
        """Encode `rows` and load the base model; raises UserError where either cannot be done.

        `rows` may be empty, and others taken with `plan` once the model is loaded.
        `adapter`: the folder of the adapter, where the tuned model is going to be asked for.
        `engine`: makes another one than `decoding.engine`, from the ids of the end and of padding.
        """
        self.encoder, self.decoding, self.adapter = PromptEncoder(recipe), decoding, adapter
        self.tokenizer = self.encoder.tokenizer
        any_row = to_row("", "Ana: hi", "Ana says hi.", recipe.summarization.instruction)
        self.end, pad = end_and_pad(self.encoder, any_row)
        self.plan(rows)
        self.seed = decoding.seed
        self.engine: Engine
        if engine:
            self.engine = engine(recipe, decoding, self.end, pad)
        elif decoding.engine == "vllm":
            from eval.vllm_engine import VllmEngine

            self.engine = VllmEngine(recipe, decoding, self.end, pad, adapter)
        else:
            from eval.hf_engine import HfEngine

            self.engine = HfEngine(recipe, decoding, self.end, pad)

    def plan(self, rows: list[Row]) -> None:
        """Take these rows from now on: encode them and plan their batches.

        Raises UserError where one holds a control string as text.
        """
        self.encoder.check_neutral(rows)
        self.ids = [row["id"] for row in rows]
        self.prompts = [self.encoder.prompt_ids(row) for row in rows]
        self.batches = plan_batches([len(prompt) for prompt in self.prompts], self.decoding)

    def use(self, model: str) -> None:
        """Choose `base` or `tuned`; once tuned, the base model is not to be had again."""
        if model == "tuned" and self.adapter:
            self.engine.attach_adapter(self.adapter)

    def summarize(self, number: int) -> list[Row]:
        """`{"id", "prediction", "tokens", "stopped"}` of each row of a batch of the plan.

        `tokens` counts what was generated, the end token included; `stopped` says whether that end
        token came before the limit of `max_new_tokens`.
        """
        batch = self.batches[number]
        outputs = self.engine.generate([self.prompts[row] for row in batch], self.seed + number)
        return [
            {"id": self.ids[row], **read_output(output, self.end, self.tokenizer)}
            for row, output in zip(batch, outputs, strict=True)
        ]


def end_and_pad(encoder: PromptEncoder, row: Row) -> tuple[int, int]:
    """Ids of the token that ends a summary, as training learns it of any row, and of padding."""
    _, labels = encoder.training_ids(row)
    end = [label for label in labels if label != -100][-1]
    pad = encoder.tokenizer.pad_token_id
    return end, end if pad is None else pad


def read_output(output: list[int], end: int, tokenizer: Any) -> Row:
    """`{"prediction", "tokens", "stopped"}` of new token ids, in `Summarizer.summarize`'s sense."""
    stopped = end in output
    length = output.index(end) + 1 if stopped else len(output)
    text = tokenizer.decode(output[:length], skip_special_tokens=True)
    return {"prediction": text.strip(), "tokens": length, "stopped": stopped}


def plan_batches(lengths: list[int], decoding: Decoding) -> list[list[int]]:
    """Row numbers of each batch, longest prompts first.

    A batch keeps to the budget of `batch_tokens`, and little of it is padding. The plan depends on
    nothing but the rows and the settings, so that a run which goes on after an interruption, or on
    more processes, makes the same batches. One dialogue is always allowed.
    """
    batches: list[list[int]] = []
    longest = tokens = 0
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        size = len(batches[-1]) + 1 if batches else 1
        budget = size * (longest + decoding.max_new_tokens) * decoding.num_beams
        padding = 1 - (tokens + lengths[row]) / max(1, size * longest)
        if not batches or budget > decoding.batch_tokens or padding > MOST_PADDING:
            batches.append([])
            longest, tokens = lengths[row], 0
        batches[-1].append(row)
        tokens += lengths[row]
    return batches


def resolve(decoding: Decoding) -> Decoding:
    """Replace `dtype: auto`: bf16 on a GPU that has it, else fp16; on a CPU the faster one.

    PyTorch says of cards before Ampere that bf16 is supported, and emulates it there, slowly.
    """
    if decoding.dtype != "auto":
        return decoding
    import torch

    from data_prep.machine import bf16_is_faster

    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = "bfloat16" if native else "float16"
    else:
        dtype = "bfloat16" if bf16_is_faster() else "float32"
    return decoding.model_copy(update={"dtype": dtype})
