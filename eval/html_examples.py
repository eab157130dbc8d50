"""The report's examples as its template needs them: text with the differing words marked."""

import re
from difflib import SequenceMatcher
from typing import Any

from markupsafe import Markup, escape

from eval.diagnosis import DIAGNOSED, speakers

METRIC = "rougeL"
SNIPPET = 150  # characters of the reference in a closed example's line
Row = dict[str, Any]
_EDGES = re.compile(r"^\W+|\W+$")


def example_views(examples: list[Row], models: list[str]) -> list[Row]:
    """What the template shows of each example, in their order; scores in percent.

    `difference` is last model minus first in ROUGE-L points, None where there is one model.
    """
    return [_view(example, place, models) for place, example in enumerate(examples)]


def mistake_choices(views: list[Row], models: list[str]) -> list[tuple[str, list[Row]]]:
    """For the filter: each model's mistakes that occur, with the key and number of examples."""
    counts: dict[str, int] = {}
    for view in views:
        for key in view["keys"]:
            counts[key] = counts.get(key, 0) + 1
    return [
        (model, found)
        for n, model in enumerate(models)
        if (
            found := [
                {"key": key, "name": name, "examples": counts[key]}
                for name in DIAGNOSED
                if (key := f"{n}:{name}") in counts
            ]
        )
    ]


def marked(text: str, other: str) -> Markup:
    """The text, its words that the other text does not have at that place within `<mark>`.

    Case and punctuation around a word do not count; words run from blank to blank. The marks are
    those of `difflib.SequenceMatcher`, prediction against reference.
    """
    words = list(re.finditer(r"\S+", text))
    matcher = SequenceMatcher(
        None, [_key(word) for word in other.split()], [_key(word[0]) for word in words], False
    )
    parts, end = [], 0
    for kind, _, _, start, stop in matcher.get_opcodes():
        if kind == "equal" or start == stop:
            continue
        begin, after = words[start].start(), words[stop - 1].end()
        parts += [escape(text[end:begin]), Markup("<mark>{}</mark>").format(text[begin:after])]
        end = after
    return Markup("").join([*parts, escape(text[end:])])


def chat(dialogue: str) -> Markup:
    """The dialogue as it stands, the names of those who speak in bold."""
    names = set(speakers(dialogue))
    lines = []
    for line in dialogue.splitlines():
        name, colon, rest = line.partition(":")
        if colon and name.strip() in names:
            lines.append(Markup("<b>{}:</b>{}").format(name, rest))
        else:
            lines.append(escape(line))
    return Markup("\n").join(lines)


def _view(example: Row, place: int, models: list[str]) -> Row:
    made, reference = example["predictions"], example["reference"]
    scores = {name: 100 * made[name]["f1"][METRIC] for name in models}
    last = models[-1]
    return {
        "place": place,
        "id": str(example["id"]),
        "leaked": bool(example["leaked"]),
        "words": len(example["dialogue"].split()),
        "snippet": _shortened(reference),
        "dialogue": chat(example["dialogue"]),
        "reference": marked(reference, made[last]["text"]),
        "predictions": [_prediction(name, made[name], reference) for name in models],
        "scores": scores,
        "score": scores[last],
        "difference": scores[last] - scores[models[0]] if len(models) > 1 else None,
        "keys": [f"{n}:{wrong}" for n, m in enumerate(models) for wrong in made[m]["mistakes"]],
    }


def _prediction(name: str, made: Row, reference: str) -> Row:
    return {
        "name": name,
        "text": marked(made["text"], reference),
        "empty": not made["text"].strip(),
        "f1": {metric: 100 * value for metric, value in made["f1"].items()},
        "tokens": made["tokens"],
        "stopped": made["stopped"],
        "mistakes": made["mistakes"],
    }


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SNIPPET else text[:SNIPPET].rstrip() + "…"


def _key(word: str) -> str:
    return _EDGES.sub("", word).casefold() or word
