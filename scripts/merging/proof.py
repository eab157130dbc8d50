"""The proof: what was measured, held against the bounds, as `merge_proof.json` and as tables."""

import json
import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from data_prep.errors import UserError, whole_file
from data_prep.prompt import PromptEncoder
from data_prep.recipe import Decoding, Recipe
from eval.analysis import analyse
from eval.context import environment
from eval.report import table
from eval.signature import commit, generation_fields, generation_key, quantization
from eval.systems import Corpus, System
from scripts.merging.bounds import Check, checks
from scripts.merging.folder import CHANGED, PROOF, changed_files, recorded
from scripts.merging.measure import Measured, measure, rounds_to_nf4
from scripts.merging.publish import end_token, paths_in, stop_tokens

Row = dict[str, Any]


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
