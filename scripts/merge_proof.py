"""The proof: what was measured, held against the bounds, as `merge_proof.json` and as tables."""

import gc
import json
import math
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from data_prep.errors import UserError, whole_file, writing_to
from data_prep.prompt import PromptEncoder
from data_prep.recipe import Recipe
from data_prep.settings import Decoding
from eval.analysis import analyse
from eval.baselines import Corpus, System
from eval.generate import Summarizer
from eval.hf_engine import HfEngine
from eval.report import HEADERS, table
from eval.results import environment
from eval.signature import commit, generation_fields, generation_key, quantization
from scripts.merged_folder import (
    CHANGED,
    PROOF,
    changed_files,
    end_token,
    paths_in,
    recorded,
    stop_tokens,
)

BLOCK = 1 << 24  # weights that are compared at a time: whole matrices of a 7B model took 7 GB more


class Weights(NamedTuple):
    """How far merged weights lie from base + adapter.

    `steps`: the greatest difference, in rounding steps of the type in which they are stored, of
    |base| + |change|; `worst`: in which tensor; `changed`: how many tensors the adapter changes,
    `expected`: how many it holds weights for; `dtype`: how they are stored.
    """

    steps: float
    worst: str
    changed: int
    expected: int
    dtype: str


METRICS = ("rouge1", "rouge2", "rougeL")
LEVEL = 0.05 / len(METRICS)
STEPS = 1.0  # rounding of a stored weight; half of one is what rounding costs
ROUNDING = 2**-8  # of bf16
Row = dict[str, Any]


class Check(NamedTuple):
    """One line of the proof: what was looked at, what was found, what it had to be."""

    what: str
    found: str
    bound: str
    holds: bool


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


def prove(
    recipe: Recipe,
    decoding: Decoding,
    rows: list[Row],
    adapter: Path,
    merged: Path,
    data: dict[str, str],
) -> tuple[dict[str, Any], list[Check]]:
    """Measure, and write the proof into the merged folder; what it says, and its lines.

    `data`: the split's name and hash. Raises UserError where a model cannot be loaded or the folder
    cannot be written.
    """
    if changed := changed_files(merged):  # an earlier proof was of other files
        with whole_file(merged / PROOF) as file:
            json.dump({"good": False, "exceeded": [CHANGED]}, file, indent=1)
    try:
        found = _of_the_folder(recipe, rows, merged, changed)
        measured = measure(recipe, decoding, rows, adapter, merged)
    except (SafetensorError, ValueError) as error:
        if not changed:
            raise
        raise UserError(
            f"{merged}: {', '.join(changed)} changed since the merge, and cannot be read; remove "
            "the folder, and the same command merges anew"
        ) from error
    figures = _figures(recipe, decoding, rows, adapter, measured, data["sha256"])
    found += checks(measured, figures, decoding.dtype)
    proof = {
        "recipe": recipe.name,
        "good": all(check.holds for check in found),
        "exceeded": [check.what for check in found if not check.holds],
        "checks": [check._asdict() for check in found],
        "compared": _compared(recipe),
        "vllm": measured.vllm if isinstance(measured.vllm, str) else "compared",
        "split": {**data, "dialogues": len(rows)},
        "decoding": decoding.model_dump(),
        "logits": _finite(measured.logits._asdict()),
        "weights": measured.weights and _finite(measured.weights._asdict()),
        **{key: figures[key] for key in ("bootstrap", "systems", "comparisons")},
        **recorded(merged),
        "environment": environment(),
        "commit": commit(),
    }
    with whole_file(merged / PROOF) as file:
        json.dump(proof, file, indent=1, ensure_ascii=False)
    return proof, found


def tables(proof: dict[str, Any], found: list[Check]) -> str:
    """The proof for the terminal."""
    lines = ["| what | found | bound | holds |", "|---|---:|---|---|"]
    lines += [f"| {c.what} | {c.found} | {c.bound} | {'yes' if c.holds else 'NO'} |" for c in found]
    split = proof["split"]
    head = (
        f"{split['dialogues']} {split['name']} dialogues, computed in "
        f"{proof['decoding']['dtype']}: {proof['compared']}"
    )
    return "\n".join([head, "", *lines, "", table(proof)])


def _of_the_folder(
    recipe: Recipe, rows: list[Row], merged: Path, changed: list[str]
) -> list[Check]:
    """What needs no model: its files, its paths, the prompt that its own tokenizer makes."""
    paths = paths_in(merged, recipe)
    encoder = PromptEncoder(recipe)
    same = _same_prompts(recipe, encoder, rows, merged)
    end, stops = end_token(encoder, rows[0]), stop_tokens(merged)
    return [
        Check(CHANGED, ", ".join(changed) or "the same", "the same", not changed),
        Check("paths of this machine", ", ".join(paths) or "none", "none", not paths),
        Check(
            "its own chat template gives training's ids", f"{same} of {len(rows)}", "all",
            same == len(rows),
        ),
        Check(
            "stops at training's end token", f"{end} in {stops}", f"{end} among them", end in stops
        ),
    ]  # fmt: skip


def _same_prompts(recipe: Recipe, encoder: PromptEncoder, rows: list[Row], merged: Path) -> int:
    from transformers import AutoTokenizer

    try:
        own: Any = AutoTokenizer.from_pretrained(merged)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{merged}: its tokenizer cannot be loaded ({reason}); remove the folder, and the same "
            "command merges anew"
        ) from error
    more = recipe.config.get("chat_template_kwargs") or {}
    return sum(
        own.apply_chat_template(
            row["messages"][:1], add_generation_prompt=True, return_dict=True, **more
        )["input_ids"]
        == encoder.prompt_ids(row)
        for row in rows
    )


def _figures(
    recipe: Recipe,
    decoding: Decoding,
    rows: list[Row],
    adapter: Path,
    measured: Measured,
    digest: str,
) -> dict[str, Any]:
    fields = generation_fields(
        generation_key(recipe, "tuned", decoding, f"{digest}[:{len(rows)}]", adapter)
    )
    made = {"adapter": measured.adapter, "merged": measured.merged}
    if not isinstance(measured.vllm, str):
        made["merged in vLLM"] = measured.vllm
    systems = {
        name: System(
            [row["prediction"] for row in results],
            tokens=[row["tokens"] for row in results],
            stopped=[row["stopped"] for row in results],
            fields=fields,
        )
        for name, results in made.items()
    }
    return analyse(systems, Corpus([row["messages"][1]["content"] for row in rows])).figures


def _compared(recipe: Recipe) -> str:
    """What stands against the merged folder, in words."""
    plain = "the adapter beside the base model's weights, and the merged folder loaded anew"
    kind = quantization(recipe.config)
    if kind is None:
        return plain
    if rounds_to_nf4(recipe):
        return (
            f"{plain}; Axolotl's merge rounds the base model's matrices to nf4 and back, as "
            "training saw them, and embeddings and head too, which training did not: so does this"
        )
    return (
        f"{plain}; both without the {kind} of training, by which the model that was trained and "
        "evaluated differs from them"
    )


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity: null stands for them."""
    return {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()
    }


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


def checks(measured: Measured, figures: dict[str, Any], dtype: str) -> list[Check]:
    """Every check of the two models; `figures` as eval.analysis gives them for both."""
    weights = measured.weights
    stored = weights.dtype if weights else "bfloat16"
    exact = dtype == stored == "float32"
    slack = 2.0 if dtype != "float32" else 0.5
    found = _weights(weights) if weights else []
    found += _logits(measured, exact, slack)
    count, least = len(measured.adapter), 0.99 if exact else 0.25
    same = _identical(measured.adapter, measured.merged)
    found.append(
        Check(
            "identical summaries", f"{same} of {count}", f"at least {least:.0%}",
            same / count >= least,
        )
    )  # fmt: skip
    if not isinstance(measured.vllm, str):
        same = _identical(measured.adapter, measured.vllm)
        found.append(Check("identical summaries in vLLM", f"{same} of {count}", "none", True))
    points = 0.5 if exact else max(0.5, 12 / math.sqrt(count))
    return found + [_rouge(figures["comparisons"][0]["metrics"], m, points) for m in METRICS]


def _identical(first: list[Row], second: list[Row]) -> int:
    return sum(a["prediction"] == b["prediction"] for a, b in zip(first, second, strict=True))


def _weights(weights: Weights) -> list[Check]:
    where = f" in {weights.worst}" if weights.steps > STEPS else ""
    return [
        Check(
            f"weights ({weights.dtype}): greatest difference", f"{weights.steps:.2f} steps{where}",
            f"at most {STEPS:g} rounding step", weights.steps <= STEPS,
        ),
        Check(
            "matrices with the adapter's change", f"{weights.changed} of {weights.expected}",
            "all", weights.changed == weights.expected,
        ),
    ]  # fmt: skip


def _logits(measured: Measured, exact: bool, slack: float) -> list[Check]:
    logits = measured.logits
    unit = ROUNDING * math.sqrt(2 * measured.layers) * logits.size
    greatest = 1e-3 if exact else slack * unit
    mean = 1e-4 if exact else slack * unit / 8
    return [
        Check(
            "logits: greatest difference", f"{logits.greatest:.2g}", f"at most {greatest:.2g}",
            logits.greatest <= greatest,
        ),
        Check(
            "logits: mean difference", f"{logits.mean:.2g}", f"at most {mean:.2g}",
            logits.mean <= mean,
        ),
        Check(
            "same first choice of token", f"{logits.same_top:.2%} of {logits.positions}",
            f"at least {0.999 if exact else 0.95:.1%}",
            logits.same_top >= (0.999 if exact else 0.95),
        ),
    ]  # fmt: skip


def _rouge(metrics: dict[str, dict[str, float]], name: str, points: float) -> Check:
    test = metrics[name]
    p = min(test["p_bootstrap"], test["p_randomization"])
    return Check(
        f"{HEADERS[name]}: merged - adapter", f"{test['difference']:+.2f} (p {p:.3f})",
        f"below {points:.2g} points, p above {LEVEL:.3f}",
        abs(test["difference"]) < points and p > LEVEL,
    )  # fmt: skip


@torch.inference_mode()
def compare_weights(model: Any, folder: Path) -> Weights | None:
    """Compare `model`, the adapter beside its weights, with the merged folder's files.

    None for DoRA, whose change is not a sum.
    """
    layers = {name: m for name, m in model.named_modules() if hasattr(m, "get_delta_weight")}
    if any(getattr(layer, "use_dora", {}).get("default") for layer in layers.values()):
        return None
    plain = dict(model.named_parameters())
    steps, worst, changed, dtype = 0.0, "", 0, ""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            keys = file.keys()
            for key in keys:
                merged = file.get_tensor(key)
                dtype = str(merged.dtype).removeprefix("torch.")
                apart, is_changed = _apart(merged, key, layers, plain)
                changed += is_changed
                if not apart <= steps:  # NaN too
                    steps, worst = apart, key
    return Weights(steps, worst, changed, len(layers), dtype)


def _apart(
    merged: torch.Tensor, key: str, layers: dict[str, Any], plain: dict[str, Any]
) -> tuple[float, bool]:
    """Rounding steps between one merged tensor and what it should be; whether it is changed."""
    module, _, kind = key.rpartition(".")
    layer = layers.get(module) if kind == "weight" else None
    names = (key, f"{module}.base_layer.{kind}", f"{module}.modules_to_save.default.{kind}")
    found = [plain[name] for name in names if name in plain]
    if not found or found[-1].shape != merged.shape:
        return float("inf"), False
    base = found[-1]
    eps = max(torch.finfo(merged.dtype).eps, torch.finfo(base.dtype).eps)
    change = layer.get_delta_weight("default") if layer else torch.zeros_like(base)
    blocks = [t.reshape(-1).to(base.device).split(BLOCK) for t in (base, change, merged)]
    sizes = [
        float((b.float().abs() + c.float().abs()).sum()) for b, c in zip(*blocks[:2], strict=True)
    ]
    least = sum(sizes) / base.numel()  # the tensor's mean, for what cancels out
    steps = []
    for of_base, of_change, of_merged in zip(*blocks, strict=True):
        apart = (of_merged.float() - (of_base.float() + of_change.float())).abs()
        size = of_base.float().abs() + of_change.float().abs()
        steps.append((apart / (eps * size.clamp_min(least) + 1e-30)).max())
    return float(torch.stack(steps).max()), layer is not None  # NaN where one is


@torch.inference_mode()
def round_to_nf4(model: Any, config: dict[str, Any]) -> None:
    """Round weights to 4 bits and back, as Axolotl's merge does: every matrix, embeddings too."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    settings = config.get("bnb_config_kwargs") or {}
    twice = settings.get("bnb_4bit_use_double_quant", not settings)
    for weight in model.parameters():  # a tied one once
        if weight.ndim < 2:
            continue
        flat = weight.detach().reshape(-1).float().contiguous()
        rounded, state = quantize_4bit(
            flat,
            quant_type="nf4",
            compress_statistics=bool(twice),
            **{k: v for k, v in settings.items() if k == "blocksize"},
        )
        back = dequantize_4bit(rounded, state, quant_type="nf4")
        weight.copy_(back.reshape(weight.shape).to(weight.dtype))
