"""Read any system's prediction and reference files and match their rows.

Use: `load({"mine": Path("mine.jsonl")}, Path("references.csv"), FieldNames())`. Accepts our own
files, LLaMA-Factory's `generated_predictions.jsonl` and lm-evaluation-harness samples unchanged.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.clean import HALF_PAIR
from data_prep.errors import UserError, reading
from data_prep.formats import is_data, read_file
from data_prep.turns import as_list
from eval import signature
from eval.baselines import BASELINES, Corpus, System
from eval.language import Scoring, markup_in
from eval.predictions import matching_record


@dataclass
class FieldNames:
    """Field names (JSON, Parquet) or column names (CSV); plain text has none.

    None means the first of the `USUAL` names that the record has.
    """

    prediction: str | None = None
    reference: str | None = None
    dialogue: str | None = None
    id: str | None = None

    def of(self, kind: str) -> tuple[str, ...]:
        """Return the names to look up for this kind of field; case and outer spaces are ignored."""
        name = getattr(self, kind)
        return (name.strip().lower(),) if name else USUAL[kind]


USUAL = {
    "prediction": ("prediction", "predict", "filtered_resps"),  # ours, LLaMA-Factory, lm-eval
    "reference": ("references", "reference", "label", "target", "summary"),
    "dialogue": ("dialogue",),
    "id": ("id", "idx", "doc_id"),
}


@dataclass
class Record:
    """One record of a file: its place (for messages), its fields, and the names to look up."""

    place: str
    fields: dict[str, Any]
    names: FieldNames

    def get(self, kind: str) -> Any:
        """Return the value of a field by its kind, a key of USUAL; None if it is missing."""
        for name in self.names.of(kind):
            if self.fields.get(name) not in (None, []):
                return self.fields[name]
        return None

    def __post_init__(self) -> None:
        self.fields = {str(k).strip().lower(): v for k, v in self.fields.items()}

    @property
    def id(self) -> str:
        """The record's id as text, whatever its type in the file; "" if it has none."""
        value = self.get("id")
        if value is None or value != value:  # NaN
            return ""
        return re.sub(r"(?<=\d)\.0+", "", str(value).strip())  # 1.0 in pandas if a row has no id

    def texts(self, kind: str) -> list[str]:
        """Return the texts of a field, one or several; raise UserError if missing or not text."""
        names, value = self.names.of(kind), self.get(kind)
        if not any(name in self.fields for name in names):
            numbered = [n for n in self.fields if re.fullmatch(r"(summary|reference)_?\d+", n)]
            if names != USUAL["reference"] or not numbered:
                raise UserError(
                    f"{self.place}: has no field `{names[0]}` (found: {', '.join(self.fields)}); "
                    "name the right one with --prediction-field, --reference-field and the like, "
                    "or give --references (options of eval.score)"
                )
            value = [self.fields[name] for name in numbered]  # summary1, summary2: DialogSum
        while isinstance(value, list) and len(value) == 1:  # lm-eval: [["text"]]
            value = value[0]
        try:
            texts = as_list(value) if kind == "reference" else [value]
        except ValueError as error:
            raise UserError(f"{self.place}: the reference {error}") from error
        if isinstance(value, list):
            texts = [text for text in value if text is not None] or [value]
        for text in texts:
            if not isinstance(text, str):
                raise UserError(
                    f"{self.place}: the {kind} is {text!r}, not text; correct the record"
                )
            if HALF_PAIR.search(text):
                raise UserError(f"{self.place}: the {kind} has half of a surrogate pair; fix it")
            if kind == "reference" and not text.strip():
                raise UserError(f"{self.place}: the reference is empty; fill it or remove the row")
        return texts

    def text(self, kind: str) -> str:
        """Return the only text of a field; raise UserError like `texts`, or if it has several."""
        texts = self.texts(kind)
        if len(texts) > 1:
            raise UserError(f"{self.place}: has {len(texts)} {kind}s; keep one")
        return texts[0]


@dataclass
class Row:
    """A prediction and what it is scored against; rows of the same dialogue share a `cluster`."""

    prediction: Record
    target: Record
    references: list[str]
    cluster: str = ""


def load(
    files: dict[str, Path],
    references: Path | None,
    names: FieldNames,
    force: bool = False,
    strip: bool = False,
    by_order: bool = False,
    of_models: bool = True,
) -> tuple[dict[str, System], Corpus]:
    """Return the systems by name and the corpus to score them on; raise UserError on bad input.

    Without `references`, each file supplies its own; they must agree unless `force` is set, and the
    first file's are used. `strip`: predictions may contain control tokens and think blocks, which
    `analyse` strips. `by_order`: join by order even if both sides have ids. `of_models`: prompt
    and decoding must be the same, too.
    """
    for name in files.keys() & BASELINES.keys():
        raise UserError(f"{files[name]}: {name} is a baseline's name; write NAME={files[name]}")
    outputs = {name: read_records(path, "prediction", names) for name, path in files.items()}
    targets = read_records(references, "reference", names) if references else None
    rows = {
        name: join(outputs[name], targets or outputs[name], path, references or path, by_order)
        for name, path in files.items()
    }
    first = next(iter(files))
    systems: dict[str, System] = {}
    first_fields: dict[str, str] = {}  # what the signatures of all files must share
    for name, path in files.items():
        if not targets:
            rows[name] = in_order_of(rows[name], rows[first], path, by_order)
        if len(rows[name]) != len(rows[first]):
            raise UserError(
                f"{path}: {len(rows[name])} rows, but {files[first]} has {len(rows[first])}; give "
                "the same number of predictions for each dialogue in every file"
            )
        record = matching_record(path)
        generation = signature.generation_fields(record.key, record.versions) if record else {}
        systems[name] = _system([row.prediction for row in rows[name]], generation)
        ref_lists = [row.references for row in rows[name]]
        if not strip:
            _refuse_markup(rows[name])
        fields = signature.scoring_fields(ref_lists, Scoring()) | generation  # scored the same way
        first_fields = first_fields or fields
        if (differences := signature.differences(first_fields, fields, of_models)) and not force:
            fix = "use the same settings for both, or compare them with --force"
            raise UserError(
                f"{files[first]} and {path} cannot be compared: {'; '.join(differences)}; "
                f"{fix if of_models else 'compare results on the same dialogues'}"
            )
        if both := signature.engines(first_fields, fields):
            print(
                f"note: {files[first]} was generated by {both[0]} and {path} by {both[1]}: with "
                "the same settings, two engines differ only by rounding"
            )
    dialogues = None
    for side in ("prediction", "target"):  # the reference file's, if both have them
        records = [getattr(row, side) for row in rows[first]]
        if all(record.get("dialogue") for record in records):
            dialogues = [record.text("dialogue") for record in records]
    ids = [row.prediction.id for row in rows[first]]
    clusters = _clusters(rows[first], dialogues, systems)
    if clusters:
        print(
            f"note: {len(ids)} rows belong to {len(set(clusters))} dialogues: means, intervals "
            "and tests are over dialogues"
        )
    ref_lists = [row.references for row in rows[first]]
    return systems, Corpus(ref_lists, dialogues, ids=ids if all(ids) else None, clusters=clusters)


def _system(records: list[Record], fields: dict[str, str]) -> System:
    def column(field: str, kind: type) -> list[Any] | None:
        values = [record.fields.get(field) for record in records]
        return values if all(type(value) is kind for value in values) else None

    return System(
        [record.text("prediction") for record in records],
        tokens=column("tokens", int),
        stopped=column("stopped", bool),
        fields=fields,
    )


def _refuse_markup(rows: list[Row]) -> None:
    texts = [(row.prediction.place, row.prediction.text("prediction")) for row in rows]
    texts += [(row.target.place, text) for row in rows for text in row.references]
    marks = [(place, mark) for place, text in texts if (mark := markup_in(text))]
    if marks:
        place, mark = marks[0]
        raise UserError(
            f"{place}: has `{mark}`, which ROUGE would count as words ({len(marks)} such texts); "
            "strip control tokens and think blocks with --strip, or correct the file"
        )


def _clusters(
    rows: list[Row], dialogues: list[str] | None, systems: dict[str, System]
) -> list[str] | None:
    """Return each row's dialogue if some rows share one; None if each row has its own.

    Rows share a dialogue if they have the same dialogue text, or else the same id; or, like
    DialogSum's test rows `test_0_1`, `test_0_2`, the same id but for a counter, and the same
    prediction by every system.
    """
    count = len(rows)
    if dialogues:
        names = [" ".join(text.split()) for text in dialogues]
        return names if len(set(names)) < count else None
    names = [row.cluster for row in rows]
    if len(set(names)) < count:
        return names
    ids = [row.prediction.id or row.target.id for row in rows]
    texts = [[" ".join(text.split()) for text in system.predictions] for system in systems.values()]
    outputs = list(zip(*texts, strict=True))
    for key in (stem, lambda name: stem(name[::-1])[::-1]):  # in `1_0` the counter comes first
        names = [key(name) for name in ids]
        distinct = len(set(zip(names, outputs, strict=True)))
        if all(ids) and 1 < len(set(names)) == distinct < count:
            return names
    if 1 < 2 * len(set(outputs)) <= count and len(set(outputs)) > 1:
        print(
            f"note: {count} rows have {len(set(outputs))} distinct predictions; if rows belong to "
            "the same dialogue, give them its id or text: otherwise they count as independent"
        )
    return None


def read_records(path: Path, kind: str, names: FieldNames) -> list[Record]:
    """Return every record of `path`; a line of plain text becomes a field of this kind.

    Raises UserError if the file is missing, empty, not UTF-8 or ends in the middle of a record.
    """
    if is_data(path.name):
        records = [Record(place, fields, names) for place, fields in read_file(path, str(path))]
        filters = {str(record.fields.get("filter")) for record in records}
        if len(filters) > 1 and "filtered_resps" in records[0].fields:  # lm-eval's filters
            raise UserError(
                f"{path}: has the outputs of {len(filters)} filters ({', '.join(sorted(filters))}"
                "); keep the lines of only one"
            )
        for record in records:  # lm-eval keeps the dataset row in `doc`
            if isinstance(record.fields.get("doc"), dict):
                record.fields = {**record.fields["doc"], **record.fields}
    else:
        with reading(path, "check the path and the encoding"):
            text = path.read_text("utf-8-sig")
        field = names.of(kind)[0]
        lines = text.removesuffix("\n").split("\n") if text.strip() else []
        if lines and all(line.strip()[:1] + line.strip()[-1:] == "{}" for line in lines):
            raise UserError(f"{path}: has a JSON object on each line; rename it to .jsonl")
        records = [Record(f"{path}:{n}", {field: line}, names) for n, line in enumerate(lines, 1)]
    if not records:
        raise UserError(f"{path}: is empty; expected one record per line")
    return records


def join(
    records: list[Record], targets: list[Record], path: Path, target_path: Path, by_order: bool
) -> list[Row]:
    """Return one row per prediction, in the targets' order, joined by id if both have ids.

    Otherwise they are joined by order. An id that repeats only among the targets has several
    references; one that repeats among the predictions too has several rows of one dialogue.
    Raises UserError if predictions and targets do not match.
    """
    if records is targets:
        return [Row(one, one, one.texts("reference"), one.id or one.place) for one in records]
    id_field = records[0].names.id
    if id_field and not any(record.id for record in (*records, *targets)):
        raise UserError(f"--id-field {id_field}: no record of {path} or {target_path} has it")
    for side in (records, targets):
        without_id = next((record for record in side if not record.id), None)
        if without_id and any(record.id for record in side) and not by_order:
            raise UserError(
                f"{without_id.place}: has no id, but other records do; add it, or join by order "
                "with --by-order"
            )
    if not all(record.id for record in (*records, *targets)) or by_order:
        if len(records) != len(targets):
            raise UserError(
                f"{path}: {len(records)} predictions for {len(targets)} references; give one for "
                "each (an empty one scores 0)"
            )
        if not by_order:
            print(f"note: {path} and {target_path} are joined by order: they do not both have ids")
        return [
            Row(one, target, target.texts("reference"), target.id or target.place)
            for one, target in zip(records, targets, strict=True)
        ]
    predictions, expected = _by_id(records), _by_id(targets)
    if predictions.keys() != expected.keys():  # DialogSum: test_0_1 and test_0_2 are one dialogue
        by_stem = [_by_id(side, stem) for side in (records, targets)]
        if by_stem[0].keys() == by_stem[1].keys():
            predictions, expected = by_stem
    if lacking := [name for name in expected if name not in predictions]:
        hint = ""
        if not predictions.keys() & expected.keys():
            hint = ", or, if both are in the same order, join by order with --by-order"
        raise UserError(
            f"{path}: has no prediction for id `{lacking[0]}` of {target_path}; add it{hint}"
        )
    if extra := [name for name in predictions if name not in expected]:
        raise UserError(f"{path}: id `{extra[0]}` has no reference; remove its prediction")
    counts = Counter(len(group) for group in predictions.values())
    rows = []
    for name, refs in expected.items():
        outputs = predictions[name]
        if len(outputs) == len(refs):
            pairs = zip(outputs, refs, strict=True)
            rows += [Row(one, target, target.texts("reference"), name) for one, target in pairs]
        elif len(outputs) == 1:
            texts = [text for target in refs for text in target.texts("reference")]
            rows.append(Row(outputs[0], refs[0], texts, name))
        elif len(refs) == 1 and len(counts) == 1:
            rows += [Row(one, refs[0], refs[0].texts("reference"), name) for one in outputs]
        else:
            raise UserError(
                f"{outputs[-1].place}: id `{name}` occurs {len(outputs)} times, for {len(refs)} "
                "references; make the ids unique, or give each the same number of predictions"
            )
    return rows


def in_order_of(rows: list[Row], first: list[Row], path: Path, by_order: bool) -> list[Row]:
    """Return the rows of a file with its own references, in the order of the first file's rows."""
    ids = [[row.prediction.id for row in side] for side in (rows, first)]
    if by_order or not all(map(all, ids)) or sorted(ids[0]) != sorted(ids[1]):
        return rows  # different references are refused later, by their hash
    rows_by_id: dict[str, list[Row]] = {}
    for row in rows:
        rows_by_id.setdefault(row.prediction.id, []).append(row)
    return [rows_by_id[name].pop(0) for name in ids[1]]


def _by_id(records: list[Record], key: Callable[[str], str] = str) -> dict[str, list[Record]]:
    grouped: dict[str, list[Record]] = {}
    for record in records:
        grouped.setdefault(key(record.id), []).append(record)
    return grouped


def stem(name: str) -> str:
    """Strip the part of an id that counts a dialogue's rows: `0_1`, `0:ref1`, `0 (1)`, `0a`."""
    match = re.fullmatch(r"(.+?)[-_#.:/ (]{1,9}[a-z]{0,9}(?:\d+|[a-z])\)?|(.*\d)[a-z]", name)
    return (match[1] or match[2]) if match else name
