"""Show what a trained adapter's page on the hub would hold, and upload it with `--yes`.

    python -m scripts.publish recipes/smollm2_samsum.yml --repo user/name [--merged]

Writes `outputs/<recipe>/publish/`: the model card, the adapter (safetensors only), its tokenizer,
the recipe and its scores; no absolute path, and no text of the data. With `--merged` the model that
scripts.merge made and proved good, its proof in the card, in `publish-merged/`. Prepare, train and
evaluate first. Without `--yes` nothing leaves this machine.
"""

import argparse
from pathlib import Path

from data_prep.errors import UserError, run_cli
from data_prep.recipe import load_recipe
from eval.model_card import model_card
from eval.publish.names import names_of
from eval.publish.records import read_records
from eval.publish.staging import stage, staged
from eval.publish.upload import check_access, check_repo, upload
from scripts.merging.good import proved


def main() -> None:
    """Stage, show, and upload where asked to."""
    args = _arguments()
    if args.repo:
        check_repo(args.repo)  # before anything is read
    recipe = load_recipe(args.recipe)
    repo: str = args.repo or recipe.summarization.publish.repo or ""
    if repo:
        check_repo(repo)
    if args.yes:
        if not repo:
            raise UserError("--yes: where to? add --repo user/name")
        check_access(repo)
    records = read_records(recipe)
    names = names_of(recipe, records.manifest, args.base_model)
    merged, proof = proved(recipe, records.adapter) if args.merged else (None, None)
    card = model_card(records, names, repo, proof)
    folder = stage(records, names, card, merged)
    show(folder, card.data.to_yaml(), repo, args.private)
    if args.yes:
        print(f"uploaded: {upload(folder, repo, args.private)}")
    else:
        print("nothing was uploaded; add --yes to do so")


def show(folder: Path, metadata: str, repo: str, private: bool) -> None:
    """Print the files with their sizes and hashes, the card's metadata and the target."""
    print(f"{folder}:")
    for file in staged(folder):
        print(f"  {file.name:<28} {file.size:>13,} bytes  sha256 {file.sha256[:16]}")
    print(f"metadata of the card:\n{_indented(metadata)}")
    visible = "private" if private else "public where it is new"
    print(f"target: {f'{repo}, {visible}' if repo else 'none named; add --repo user/name'}")


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.publish", description=__doc__.splitlines()[0]
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--repo", help="user/name (default: summarization.publish.repo)")
    parser.add_argument("--base-model", help="the base model's hub id, where the recipe's is local")
    parser.add_argument(
        "--merged", action="store_true", help="the merged model instead of the adapter"
    )
    parser.add_argument("--private", action="store_true", help="where the repository is new")
    parser.add_argument("--yes", action="store_true", help="upload")
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
