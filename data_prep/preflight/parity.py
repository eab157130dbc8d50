"""Prompt parity, before GPU time is spent: training, evaluation and the model mean one prompt.

from data_prep.preflight.parity import check_parity
print(check_parity(load_recipe("recipes/smollm2_samsum.yml")).problems)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from data_prep.errors import UserError
from data_prep.preflight.lengths import SPLITS
from data_prep.preflight.row_checks import (
    MEND_LOSS,
    MEND_TEMPLATE,
    EncodedRow,
    RowChecks,
    mistral_encoder,
)
from data_prep.prompt import PromptEncoder, read_rows
from data_prep.recipe import Recipe, sequence_len

PLACES = {"path", "split", "name", "ds_type", "data_files", "revision"}  # of rows, not of prompts


@dataclass(frozen=True)
class Parity:
    """What a look at some rows found; `problems` is empty where all is well."""

    problems: list[str]  # one line each; of those that several rows have, the first row's
    rows: int  # rows looked at
    end: str  # the token that ends a turn, and on which generation stops
    checked: list[str]  # sentences: what held for all of them
    example: tuple[list[int], list[int]]  # ids and labels of the shortest of them


def check_parity(recipe: Recipe, sample: int = 16) -> Parity:
    """Compare, over `sample` prepared rows, what training sees with what evaluation will send.

    Rows that training leaves out for their length are not looked at. Raises UserError where the
    tokenizer or the rows cannot be had; what is wrong with the prompt goes into `problems`.
    """
    splits = [read_rows(recipe.data_dir / f"{split}.jsonl") for split in SPLITS]
    chosen = [row for rows in splits for row in spread(rows, sample // len(SPLITS))]
    try:
        encoder = PromptEncoder(recipe)
        encoded = [
            EncodedRow(row, encoder.prompt_ids(row), *encoder.training_ids(row)) for row in chosen
        ]
    except (ValueError, TemplateError) as error:  # the template refuses a row or these tokens
        reason = " ".join(str(error).split())
        problem = f"{recipe.path}: chat_template: {reason}; {MEND_TEMPLATE}"
        return Parity([problem], 0, "", [], ([], []))
    encoded = [row for row in encoded if len(row.ids) <= sequence_len(recipe.config)]
    problems, checked = RowChecks(recipe, encoder).run(encoded)
    problems += _of_the_recipe(recipe, encoder, [row for rows in splits for row in rows])
    if not encoded:
        problems.append(
            f"{recipe.path}: sequence_len {sequence_len(recipe.config)} is shorter than each row "
            "that was looked at; raise it"
        )
    ends = {row.trained[-1] for row in encoded if row.trained}
    if len(ends) > 1:
        problems.append(f"{recipe.path}: rows end on different tokens; {MEND_LOSS}")
    ends &= set(encoder.tokenizer.all_special_ids)
    end = encoder.tokenizer.convert_ids_to_tokens(min(ends)) if ends else ""
    shortest = min(encoded, key=lambda row: len(row.ids), default=None)
    example = (shortest.ids, shortest.labels) if shortest else ([], [])
    return Parity(problems, len(encoded), end, checked, example)


def spread(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The first row, the last, the longest in characters, and others evenly between, in order."""
    if len(rows) <= count:
        return rows
    last = len(rows) - 1
    sizes = [sum(len(message["content"]) for message in row["messages"]) for row in rows]
    even = [round(step * last / (count - 1)) for step in range(count)]
    chosen = list(dict.fromkeys([0, last, sizes.index(max(sizes)), *even]))[:count]
    return [rows[number] for number in sorted(chosen)]


def _of_the_recipe(
    recipe: Recipe, encoder: PromptEncoder, rows: list[dict[str, Any]]
) -> Iterator[str]:
    """What is wrong whatever the sample."""
    try:
        encoder.check_neutral(rows)
    except UserError as error:
        yield f"{recipe.path}: {error}"
    sets = recipe.config["datasets"][0], recipe.config["test_datasets"][0]
    for key in sorted({*sets[0], *sets[1]} - PLACES):
        train, validation = (part.get(key) for part in sets)
        if train != validation:
            yield (
                f"{recipe.path}: datasets[0].{key} is {train!r}, test_datasets[0].{key} is "
                f"{validation!r}; make them equal, or eval_loss is that of another prompt"
            )
    template = recipe.config.get("chat_template")
    if template == "mistral_v1" and not mistral_encoder(encoder.tokenizer):
        yield (
            f"{recipe.path}: chat_template mistral_v1 is that of Mistral-7B-Instruct v0.1 and "
            f"v0.2, and {encoder.tokenizer.name_or_path} has another vocabulary; {MEND_TEMPLATE}"
        )
