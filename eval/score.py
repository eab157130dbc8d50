"""Score the outputs of any system: `python -m eval.score --predictions FILE... --references FILE`.

JSONL, JSON, CSV, Parquet or plain text; needs no model. Several prediction files are compared by
paired tests.
"""

import argparse
from pathlib import Path

from data_prep.errors import UserError, run_cli, whole_file


def main() -> None:
    """Read, check that the results may be compared, score, print; optionally write JSON."""
    args = _arguments()  # before the imports, which take longer than --help should
    from eval.analysis import analyse
    from eval.baselines import with_baselines
    from eval.outputs import FieldNames, load, named_files
    from eval.report import terminal_tables
    from eval.scores import Bootstrap

    if args.resamples < 100:
        raise UserError(f"--resamples: {args.resamples} are too few for an interval; use 1000")
    names = FieldNames(
        args.prediction_field, args.reference_field, args.dialogue_field, args.id_field
    )
    systems, corpus = load(named_files(args.predictions), args.references, names, args.force)
    settings = Bootstrap(resamples=args.resamples)
    scores = analyse(with_baselines(systems, corpus), corpus, settings, workers=args.workers).scores
    if args.output:
        with whole_file(args.output) as file:
            file.write(scores.model_dump_json(indent=2) + "\n")
    print(terminal_tables(scores))
    for name in scores.models:
        print(f"{name}: {scores.systems[name].signature}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m eval.score",
        description="ROUGE of any system's outputs, with intervals, paired tests and a signature.",
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
    add("--force", action="store_true", help="compare although the signatures differ")
    add("--output", type=Path, help="write the scores there as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
