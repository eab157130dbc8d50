"""Score anybody's outputs: `python -m eval.score --predictions FILE... --references FILE`.

JSONL, CSV or plain text; needs no model. Several prediction files are compared by paired tests.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from data_prep.errors import UserError, run_cli, whole_file
from eval import signature
from eval.analysis import Analysis, Settings, analyse
from eval.outputs import Fields, Row, align, read_records
from eval.predictions import recorded_key
from eval.report import comparison_table, table
from eval.systems import Corpus, System, default_pairs, with_baselines


def main() -> None:
    """Read, check that the results may be compared, score, print; optionally write JSON."""
    args = _arguments()
    if args.resamples < 100:
        raise UserError(f"--resamples: {args.resamples} are too few for an interval; use 1000")
    fields = Fields(args.prediction_field, args.reference_field, args.dialogue_field, args.id_field)
    systems, corpus = load(_named(args.predictions), args.references, fields, args.force)
    everything = with_baselines(systems, corpus)
    settings = Settings(args.resamples, workers=args.workers)
    result = analyse(everything, corpus, settings, default_pairs(everything))
    if args.output:
        with whole_file(args.output) as file:
            file.write(json.dumps(result.figures, indent=2, ensure_ascii=False) + "\n")
    _print(result)


def load(
    files: dict[str, Path], references: Path | None, fields: Fields, force: bool = False
) -> tuple[dict[str, System], Corpus]:
    """Systems by name, and what they are scored on; raises UserError where that cannot be.

    Without `references` each file brings its own, and they must agree unless `force` is set; the
    first file's are then used.
    """
    rows = {name: read_records(path, fields.prediction) for name, path in files.items()}
    first = next(iter(files))
    target = read_records(references, fields.reference) if references else rows[first]
    systems: dict[str, System] = {}
    compared: dict[str, signature.Fields] = {}
    for name, path in files.items():
        aligned = align(rows[name], target, fields.id, path)
        key = recorded_key(path)
        known = signature.generation_fields(key, packages=False) if key else {}
        own = aligned if references is None else target
        compared[name] = signature.scoring_fields([row.text(fields.reference) for row in own])
        compared[name] |= known
        systems[name] = _system(aligned, fields, known)
        differ = signature.differences(compared[first], compared[name])
        if differ and not force:
            raise UserError(
                f"{files[first]} and {path} are not to be compared: {'; '.join(differ)}; make them "
                "alike, or compare all the same with --force"
            )
    texts = [row.text(fields.reference) for row in target]
    source = target if fields.dialogue in target[0].fields else rows[first]
    if source is not target:
        source = align(source, target, fields.id, files[first])
    dialogues = None
    if all(fields.dialogue in row.fields for row in source):
        dialogues = [row.text(fields.dialogue) for row in source]
    return systems, Corpus(texts, dialogues)


def _system(rows: list[Row], fields: Fields, known: dict[str, str]) -> System:
    stopped = [row.fields.get("stopped") for row in rows]
    tokens = [row.fields.get("tokens") for row in rows]
    return System(
        [row.text(fields.prediction) for row in rows],
        tokens=tokens if all(type(n) is int for n in tokens) else None,  # type: ignore[arg-type]
        stopped=stopped if all(type(s) is bool for s in stopped) else None,  # type: ignore[arg-type]
        fields=known,
    )


def _named(values: list[str]) -> dict[str, Path]:
    """`name=path` or a path, whose own name is then used: `predictions.base.jsonl` is `base`."""
    found: dict[str, Path] = {}
    for value in values:
        name, has_name, path = value.partition("=")
        if not has_name or Path(value).is_file():  # a file may have `=` in its own name
            path = value
            name = Path(path).stem.removeprefix("predictions.")
        if name in found:
            name = f"{Path(path).parent.name}/{name}"
        if name in found or not name:
            raise UserError(f"--predictions: two systems named {name}; write NAME={path}")
        found[name] = Path(path)
    return found


def _print(result: Analysis) -> None:
    print(table(result.figures))
    if result.figures["comparisons"]:
        print(comparison_table(result.figures))
    for name, system in result.figures["systems"].items():
        if system["kind"] == "model":
            print(f"{name}: {system['signature']}")


def _arguments() -> Any:
    parser = argparse.ArgumentParser(
        prog="python -m eval.score",
        description="ROUGE of anybody's outputs, with intervals, paired tests and a signature.",
    )
    add = parser.add_argument
    add("--predictions", nargs="+", required=True, metavar="[NAME=]FILE", help="a file a system")
    add("--references", type=Path, help="default: the references in the prediction files")
    add("--prediction-field", default="prediction")
    add("--reference-field", default="reference")
    add("--dialogue-field", default="dialogue")
    add("--id-field", default="id")
    add("--resamples", type=int, default=1000, help="of the bootstrap (default 1000)")
    add("--workers", type=int, help="processes that score (default: the cores)")
    add("--force", action="store_true", help="compare in spite of different signatures")
    add("--output", type=Path, help="write the figures there as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
