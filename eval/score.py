"""Score the outputs of any system: `python -m eval.score --predictions FILE... --references FILE`.

JSONL, JSON, CSV, Parquet or plain text; no model needed. Several prediction files are compared by
paired tests. From Python: `score(predictions, references).systems["predictions"].scores["rougeL"]`.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import UserError, atomic_file, check_outputs, run_cli
from data_prep.options import Options

if TYPE_CHECKING:
    from data_prep.settings import Rouge
    from eval.scores import Scores


def score(
    predictions: Sequence[str] | Mapping[str, Sequence[str]],
    references: Sequence[str] | Sequence[Sequence[str]],
    dialogues: Sequence[str] | None = None,
    language: str = "en",
    **rouge: Any,
) -> "Scores":
    """Return the scores of one system, or of several by name, compared by paired tests.

    `references`: one text per example, or a list of several; `dialogues` add the baselines;
    `language` and `rouge` (tokenizer, stemmer, lsum, strip) are as in a recipe. All scores are in
    percent. Raises ValueError if lengths or types differ or a setting is unknown.
    """
    from data_prep.settings import Rouge
    from eval.analysis import analyse
    from eval.baselines import BASELINES, Corpus, System, add_baselines

    if not isinstance(predictions, Mapping):
        predictions = {"predictions": predictions}
    for name, texts in {**predictions, "references": references}.items():
        if isinstance(texts, str) or not len(texts) or len(texts) != len(references):
            raise ValueError(f"{name}: expected a text for each of {len(references)} examples")
        for text in texts:
            several = text if name == "references" and isinstance(text, list | tuple) else [text]
            if not several or not all(isinstance(one, str) for one in several):
                raise ValueError(f"{name}: {text!r} is not text")
        if name in BASELINES:
            raise ValueError(f"{name} is the name of a baseline; choose another")
    if not predictions or (dialogues and len(dialogues) != len(references)):
        raise ValueError(f"expected predictions, and {len(references)} dialogues or none")
    corpus = Corpus(references, dialogues)
    folded = [" ".join(text.split()) for text in dialogues or ()]
    corpus.clusters = folded if len(set(folded)) < len(folded) else None
    systems = add_baselines({name: System(texts) for name, texts in predictions.items()}, corpus)
    return analyse(systems, corpus, workers=1, rouge=Rouge(**rouge), language=language).scores


def main() -> None:
    """Read, check that results are comparable, score and print; optionally write JSON."""
    args = _arguments()  # before the slow imports, so that --help is fast
    from eval.analysis import analyse
    from eval.baselines import add_baselines
    from eval.outputs import FieldNames, load
    from eval.predictions import key_file
    from eval.report import show
    from eval.scores import Bootstrap

    if not 100 <= args.resamples <= 100_000:
        raise UserError(f"--resamples: {args.resamples}; use 1000, or from 100 to 100000")
    names = FieldNames(
        args.prediction_field, args.reference_field, args.dialogue_field, args.id_field
    )
    rouge = rouge_of(
        tokenizer=args.tokenizer, stemmer=args.stemmer, lsum=args.lsum, strip=args.strip
    )
    files = named(args.predictions)
    inputs = [*files.values(), *map(key_file, files.values()), *filter(None, [args.references])]
    check_outputs(*filter(None, [args.output]), inputs=inputs)
    systems, corpus = load(files, args.references, names, args.force, args.strip, args.by_order)
    settings = Bootstrap(resamples=args.resamples)
    scores = analyse(
        add_baselines(systems, corpus),
        corpus,
        settings,
        workers=args.workers,
        rouge=rouge,
        language=args.language,
    ).scores
    if args.output:
        with atomic_file(args.output) as file:
            file.write(scores.model_dump_json(indent=2) + "\n")
    show(scores)
    for name in scores.models:
        print(f"{name}: {scores.systems[name].signature}")


def named(values: list[str]) -> dict[str, Path]:
    """Read `name=path`, or a path named after its file: `predictions.base.jsonl` is `base`."""
    paths: dict[str, Path] = {}
    for value in values:
        name, has_name, path = value.partition("=")
        if not has_name or Path(value).is_file():  # a file may have `=` in its own name
            path = value
            name = Path(path).stem.removeprefix("predictions.")
        if name in paths:
            name = f"{Path(path).parent.name}/{name}"
        if name in paths or not name:
            raise UserError(f"--predictions: two systems named {name}; write NAME={path}")
        paths[name] = Path(path)
    return paths


ROUGE_EXAMPLE = "{} --language de --tokenizer unicode --stemmer none --lsum lines --strip"


def rouge_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that a recipe has as `summarization.rouge` and `summarization.language`."""
    add, suffix = parser.add_argument, "; for runs: as they were scored)"
    codes = f"ISO 639 code, for sentences and stemmer (default: en{suffix}"
    add("--language", type=_language, default="en", help=codes)
    tokenizers = ("auto", "english", "unicode")
    add("--tokenizer", default="auto", choices=tokenizers, help=f"for words (default: auto{suffix}")
    stemmers = f"auto, none, porter, or a Snowball language (default: auto{suffix}"
    add("--stemmer", default="auto", help=stemmers)
    lsum = f"what ROUGE-Lsum counts as a sentence (default: sentences{suffix}"
    add("--lsum", default="sentences", choices=("sentences", "lines"), help=lsum)
    strip = f"strip control tokens and think blocks (default: no{suffix}"
    add("--strip", action="store_true", help=strip)


def _language(code: str) -> str:
    code = code.lower().partition("-")[0]  # en-US
    if not (code.isascii() and code.isalpha() and len(code) in (2, 3)):
        raise UserError(f"--language {code}: use an ISO 639 code, such as en, de or zh")
    return code


def rouge_of(**settings: Any) -> "Rouge":
    """Return the settings from `rouge_options`; raise UserError if one is invalid."""
    from pydantic import ValidationError

    from data_prep.settings import Rouge

    try:
        return Rouge(**settings)
    except ValidationError as error:
        raise UserError(
            f"--stemmer {settings['stemmer']}: {error.errors()[0]['ctx']['error']}"
        ) from error


def _arguments() -> argparse.Namespace:
    parser = Options(
        "eval.score",
        "ROUGE of any system's outputs, with intervals, paired tests and a signature.",
        "--predictions mine=a.jsonl other=b.csv --references test.jsonl --output scores.json",
        "--predictions a.jsonl --prediction-field output --reference-field gold --dialogue-field "
        "chat --id-field key",
        "--predictions a.txt b.txt --references r.txt --by-order --force --resamples 2000 "
        "--workers 4",
        ROUGE_EXAMPLE.format("--predictions a.txt --references r.txt"),
    )
    add = parser.add_argument
    add("--predictions", nargs="+", required=True, metavar="[NAME=]FILE", help="one per system")
    add("--references", type=Path, help="default: the references in the prediction files")
    usual = "default: the usual names"
    add("--prediction-field", help=f"{usual} (prediction, predict, filtered_resps)")
    add("--reference-field", help=f"{usual} (reference, references, label, target, summary)")
    add("--dialogue-field", help=f"{usual} (dialogue)")
    add("--id-field", help=f"{usual} (id, idx, doc_id)")
    add("--by-order", action="store_true", help="join by order even if both sides have ids")
    rouge_options(parser)
    add("--resamples", type=int, default=1000, help="bootstrap resamples")
    add("--workers", type=int, help="scoring processes (default: one per core)")
    add("--force", action="store_true", help="compare even if the signatures differ")
    add("--output", type=Path, help="JSON file for the scores (default: none)")
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
