"""Time and peak memory of data preparation on a corpus repeated to many rows.

    python scripts/bench_data_prep.py recipes/smollm2_samsum_corpus.yml --rows 1000000

The recipe's source is written out as JSONL, over and over, until train has that many rows; with
`--unique` each copy's dialogues get a first turn of their own, so that no row is a duplicate.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from data_prep.recipe import load_recipe
from data_prep.sources import SPLITS, Source


def main() -> None:
    """Write the corpus, prepare it in a process of its own, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--unique", action="store_true", help="no two rows alike")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        recipe = write_corpus(args.recipe, folder, args.rows, args.unique)
        start = time.monotonic()
        subprocess.run([sys.executable, "-m", "data_prep", recipe], check=True)
        seconds = time.monotonic() - start
    unit = 1024 * 1024 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit
    print(f"{args.rows} training rows: {seconds:.0f} s with imports, peak memory {peak:.0f} MB")


def write_corpus(path: Path, folder: Path, rows: int, unique: bool) -> Path:
    """Write `train`, `validation` and `test` as JSONL and a recipe that reads them."""
    corpus = folder / "corpus"
    corpus.mkdir()
    config = yaml.safe_load(path.read_text("utf-8"))
    block = config["summarization"]
    with Source(load_recipe(path).summarization.source) as source:
        for split in SPLITS:
            originals = [row for _, row in source.rows(split)]
            wanted = rows if split == "train" else len(originals)
            with (corpus / f"{split}.jsonl").open("w", encoding="utf-8") as file:
                for number in range(wanted):
                    row = {**originals[number % len(originals)], "id": f"{split}-{number}"}
                    if unique and split == "train":
                        column = block.get("dialogue_column", "dialogue")
                        row[column] = f"Ann: number {number}\n{row[column]}"
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    block.update({"source": str(corpus), "train_rows": "all"})
    for key, split in (("datasets", "train"), ("test_datasets", "validation")):
        config[key][0]["path"] = str(folder / f"prepared/{split}.jsonl")
    recipe = folder / "bench.yml"
    recipe.write_text(yaml.safe_dump(config), "utf-8")
    return recipe


if __name__ == "__main__":
    main()
