"""Two models on the same dialogues: summaries, and logits of the same ids, one model at a time.

The adapter beside the base model's weights is what was trained; the merged folder, loaded anew, is
what is going to be used. Logits go through a temporary file, so that both need not be in memory.
"""

import gc
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch

from data_prep.errors import UserError, writing_to
from data_prep.prompt import PromptEncoder
from data_prep.recipe import Decoding, Recipe
from eval.generate import Summarizer
from eval.hf_engine import HfEngine
from eval.signature import quantization
from scripts.merging.weights import Weights, compare_weights, round_to_nf4

Row = dict[str, Any]


class Continued(NamedTuple):
    """A prompt with its reference: `ids`, of which the summary begins at `start`."""

    ids: list[int]
    start: int


class Logits(NamedTuple):
    """How far two models' logits lie apart at the tokens of the references.

    `greatest` and `mean` of the absolute difference over `positions` x vocabulary; `same_top` is a
    share of the positions; `size` is the greatest absolute logit.
    """

    greatest: float
    mean: float
    same_top: float
    positions: int
    size: float


class Measured(NamedTuple):
    """Results of both models in the order of the rows, how far apart the two are, their depth.

    `vllm`: those of the merged folder under vLLM, or why there are none.
    """

    adapter: list[Row]
    merged: list[Row]
    logits: Logits
    weights: Weights | None
    layers: int
    vllm: list[Row] | str


def measure(
    recipe: Recipe, decoding: Decoding, rows: list[Row], adapter: Path, merged: Path
) -> Measured:
    """Run both models over `rows`; raises UserError where one of them cannot be loaded."""
    encoder = PromptEncoder(recipe)
    continued = [
        Continued(encoder.training_ids(row)[0], len(encoder.prompt_ids(row))) for row in rows
    ]
    with writing_to(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as spool:
        first = _Side(recipe, decoding, rows, adapter)
        of_adapter = _summaries(first.summarizer)
        for one in continued:
            first.logits(one).tofile(spool)
        weights = compare_weights(first.engine.model, merged)
        del first
        gc.collect()
        second = _Side(recipe, decoding, rows, None, merged)
        of_merged = _summaries(second.summarizer)
        spool.seek(0)
        logits = _compare(spool, second, continued)
        layers = second.engine.model.config.num_hidden_layers
        del second
        gc.collect()
    in_vllm = _in_vllm(_of_folder(recipe, merged), decoding, rows)
    return Measured(of_adapter, of_merged, logits, weights, layers, in_vllm)


class _Side:
    """One of the two models; `merged` is its folder, or the adapter's model is meant."""

    def __init__(
        self,
        recipe: Recipe,
        decoding: Decoding,
        rows: list[Row],
        adapter: Path | None,
        merged: Path | None = None,
    ):
        plain = _of_folder(recipe, merged)

        def engine(_: Recipe, decoding: Decoding, end: int, pad: int) -> HfEngine:
            made = HfEngine(plain, decoding, end, pad, beside=True)
            if adapter and rounds_to_nf4(recipe):
                round_to_nf4(made.model, recipe.config)
            return made

        self.summarizer = Summarizer(recipe, decoding, rows, adapter, engine)
        self.summarizer.use("tuned")
        self.engine: Any = self.summarizer.engine

    @torch.inference_mode()
    def logits(self, one: Continued) -> np.ndarray:
        """float32, (tokens of the summary and its end, vocabulary); the reference is given."""
        ids = torch.tensor([one.ids[:-1]], device=self.engine.device)
        count = len(one.ids) - one.start
        output = self.engine.model(input_ids=ids, logits_to_keep=count, use_cache=False)
        return output.logits[0].float().cpu().numpy()


def _of_folder(recipe: Recipe, merged: Path | None) -> Recipe:
    """The recipe without its 4 or 8 bits, on the merged folder where there is one."""
    config = {**recipe.config, "load_in_4bit": False, "load_in_8bit": False}
    if merged:
        config |= {"base_model": str(merged), "revision_of_model": None}
    return replace(recipe, config=config)


def _summaries(summarizer: Summarizer) -> list[Row]:
    """`{"id", "prediction", ...}` of each row, in their order."""
    found: dict[int, Row] = {}
    for number, batch in enumerate(summarizer.batches):
        found |= zip(batch, summarizer.summarize(number), strict=True)
    return [found[row] for row in range(len(found))]


def _in_vllm(merged: Recipe, decoding: Decoding, rows: list[Row]) -> list[Row] | str:
    """Summaries of the merged folder under vLLM; not run yet, for want of a GPU."""
    if not find_spec("vllm"):
        return "not compared: vLLM is not installed"
    if not torch.cuda.is_available():
        return "not compared: no GPU"
    torch.cuda.empty_cache()
    try:
        asked = Decoding.model_validate({**decoding.model_dump(), "engine": "vllm"})
        return _summaries(Summarizer(merged, asked, rows, None))
    except (UserError, ValueError) as error:  # ValueError: a setting that vLLM has not
        return f"not compared: {' '.join(str(error).split())}"


def rounds_to_nf4(recipe: Recipe) -> bool:
    """Whether Axolotl's merge takes the base weights as 4-bit training saw them."""
    legacy = recipe.config.get("merge_method") == "legacy"
    return quantization(recipe.config) == "nf4" and not legacy


def _compare(spool: IO[bytes], second: _Side, continued: list[Continued]) -> Logits:
    greatest, total, same, positions, cells, size = 0.0, 0.0, 0, 0, 0, 0.0
    for one in continued:
        theirs = second.logits(one)
        ours = np.fromfile(spool, np.float32, theirs.size).reshape(theirs.shape)
        apart = np.abs(ours - theirs)
        greatest = float(np.maximum(greatest, apart.max()))  # stays NaN where one is
        size = max(size, float(np.abs(ours).max()))
        total += float(apart.sum(dtype=np.float64))
        same += int((ours.argmax(1) == theirs.argmax(1)).sum())
        positions, cells = positions + len(apart), cells + apart.size
    return Logits(greatest, total / cells, same / positions, positions, size)
