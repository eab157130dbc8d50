"""Show what a trained adapter's page on the hub would hold, and upload it with `--yes`.

    python -m scripts.publish recipes/smollm2_samsum.yml --repo user/name [--merged]

Writes `outputs/<recipe>/publish/`: the model card, the adapter (safetensors only), its tokenizer,
the recipe and its scores. Only listed files are published, none of which holds an absolute path or
an access token; the recipe's comments are published as they are. `--merged` publishes the model
that scripts.merge made and proved, its proof in the card, from `publish-merged/`. Prepare, train
and evaluate first. Without `--yes` nothing leaves this machine.
"""

import argparse
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import httpx
import yaml
from huggingface_hub import HfApi, ModelCard, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open

from data_prep.errors import UserError, run_cli, writing_to
from data_prep.recipe import load_recipe
from data_prep.sources import sha256_of
from eval.adapter import ADAPTER
from scripts.merge_proof import PROOF, proved
from scripts.model_card import (
    Names,
    Records,
    is_absolute,
    model_card,
    names_of,
    portable,
    read_records,
    replaced,
)

TEXT = {".md", ".yml", ".jinja", ".txt"}
# Two folders deep at the least, so that neither `and/or` nor `[/INST]` is a path.
PATH = re.compile(
    r"(?<![\w.:/<~\\)\]}-])/[\w.@+-]+/[\w.@+/-]*"  # /home/me/model
    r"|(?<![\w.:/])/(?:home|Users|root|mnt|media|tmp|srv|opt|workspace)/[\w.@+-]"  # </home/me>
    r"|file:/+[\w.]"
    r"|(?<![\w/])~[A-Za-z]*/[\w.]"
    r"|(?<![A-Za-z0-9])[A-Za-z]:(?:\\+|/)(?!/)\w"  # C:\models
    r"|(?<!\\)\\\\[\w.-]+\\+[\w.$-]+"  # \\server\share
)
# Tokens as their services write them: Hugging Face, GitHub, Weights & Biases, AWS, OpenAI
SECRET = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{20,}|wandb_v\d_\w{20,}"
    r"|AKIA[A-Z0-9]{16}|sk-[\w-]{20,})\b|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)

STATUS = {
    401: "refused the token; log in again with `hf auth login`, or set HF_TOKEN",
    403: "the token has no right to write there; use one with the `write` role, or your own name",
    404: "not found, or not visible with this token; check the name and the token",
    409: "conflicts with something that exists there; choose another name",
    413: "too large for the hub; leave files out",
    429: "too many requests; wait, and run the same command again",
}

TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model",
    "chat_template.jinja",
)  # fmt: skip
MERGED = (
    "config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json",
    PROOF,
)  # fmt: skip
RECORDS = ("README.md", "recipe.yml", "scores.json", "adapter_config.json")
FILES = (*RECORDS, ADAPTER, *MERGED, *TOKENIZER)  # patterns of all that is ever published


def main() -> None:
    """Stage, show, and upload where asked to."""
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
    args = parser.parse_args()
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
    names = names_of(recipe, records.manifest.source_files, args.base_model)
    merged, proof = proved(recipe, records.adapter) if args.merged else (None, None)
    card = model_card(records, names, repo, proof)
    folder = stage(records, names, card, merged)
    print(f"{folder}:")
    for path in sorted(folder.iterdir()):
        size, digest = path.stat().st_size, sha256_of(path)[:16]
        print(f"  {path.name:<28} {size:>13,} bytes  sha256 {digest}")
    print("metadata of the card:", *card.data.to_yaml().splitlines(), sep="\n  ")
    visible = "private" if args.private else "public where it is new"
    print(f"target: {f'{repo}, {visible}' if repo else 'none named; add --repo user/name'}")
    if args.yes:
        print(f"uploaded: {upload(folder, repo, args.private)}")
    else:
        print("nothing was uploaded; add --yes to do so")


def stage(records: Records, names: Names, card: ModelCard, merged: Path | None = None) -> Path:
    """Write the folder and check its files; an earlier one stays until the new one is complete.

    Raises UserError where the folder cannot be written, or a file must not be published.
    """
    folder = records.adapter / ("publish-merged" if merged else "publish")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        with writing_to(folder):
            partial.mkdir(parents=True)
            _write_records(partial, records, names, card)
            _write_model(partial, records, names, merged)
        for path in sorted(partial.iterdir()):
            check_file(path)
        with writing_to(folder):
            if folder.exists():
                shutil.rmtree(folder)
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _write_records(folder: Path, records: Records, names: Names, card: ModelCard) -> None:
    """Card, recipe and scores, with names instead of this machine's paths."""
    places = portable(records.recipe, names)
    (folder / "README.md").write_text(str(card), "utf-8")
    recipe = records.recipe.path.read_text("utf-8")
    (folder / "recipe.yml").write_text(replaced(recipe, places), "utf-8")
    scores = {
        key: replaced(value, places) if isinstance(value, str) else value
        for key, value in records.scores.model_dump().items()
    }
    _write_json(folder / "scores.json", scores)


def _write_model(folder: Path, records: Records, names: Names, merged: Path | None) -> None:
    """Copy the listed files alone: Axolotl's own README is not among them."""
    patterns = (*(MERGED if merged else (ADAPTER,)), *TOKENIZER)
    for path in sorted((merged or records.adapter).iterdir()):
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in patterns):
            shutil.copyfile(path, folder / path.name)
    if not merged:
        config = {**records.adapter_config, "base_model_name_or_path": names.base_model}
        if names.local_base:
            config["revision"] = None  # of the folder, not of the hub's model
        _write_json(folder / "adapter_config.json", config)
    tokenizer = folder / "tokenizer_config.json"
    if tokenizer.is_file():  # where it was loaded from would bind others to that folder too
        settings = json.loads(tokenizer.read_text("utf-8"))
        dropped = {"is_local", "local_files_only"}
        if is_absolute(str(settings.get("name_or_path", ""))):
            dropped.add("name_or_path")
        _write_json(tokenizer, {k: v for k, v in settings.items() if k not in dropped})


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def check_repo(repo: str) -> None:
    """Raise UserError where `repo` cannot be a model's name on the hub."""
    try:
        validate_repo_id(repo)
        owner, name = repo.split("/")
        if not (owner and name):
            raise ValueError
    except (HFValidationError, ValueError) as error:
        raise UserError(
            f"--repo: {repo} is no name of the hub; give user/name, of letters, digits, `-`, `_` "
            "and `.`, at most 96 of them"
        ) from error


def check_access(repo: str) -> None:
    """Raise UserError where nothing could be uploaded: offline by setting, or no token."""
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{repo}: HF_HUB_OFFLINE is set; unset it to upload")
    if get_token() is None:
        raise UserError(f"{repo}: no token of the hub here; run `hf auth login` or set HF_TOKEN")


def upload(folder: Path, repo: str, private: bool) -> str:
    """Create the repository where it is missing, upload in one commit, return its address."""
    check_repo(repo)
    check_access(repo)
    api = HfApi()
    with _one_line(repo):
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.repo_info(repo).private:
            raise UserError(
                f"{repo}: is there already, and public; make it private in its settings on the "
                "hub, or leave out --private"
            )
        done = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=list(FILES),
            commit_message="Adapter, card and records",
        )
    return str(done.commit_url)


@contextmanager
def _one_line(repo: str) -> Iterator[None]:
    """Turn what the hub's client raises into a UserError."""
    again = "nothing here was changed; run the same command again"
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise UserError(f"{repo}: HF_HUB_OFFLINE is set; unset it to upload") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = error.server_message or f"status {status}"
        why = STATUS.get(status, f"the hub answered {status}; {again}")
        raise UserError(f"{repo}: {why} (it says: {said})") from error
    except (httpx.HTTPError, OSError) as error:
        raise UserError(
            f"{repo}: the hub cannot be reached ({type(error).__name__}: {error}); check the "
            f"network; {again}"
        ) from error
    except (ValueError, RuntimeError) as error:  # a card, a file or an answer that it refuses
        raise UserError(f"{repo}: the hub's client gave up ({error}); {again}") from error


# ---- what no file may hold, published or merged ----


def check_file(path: Path) -> None:
    """Raise UserError where a file holds a path of a machine or an access token."""
    try:
        text = "\n".join(_strings(_content(path)))
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name}: is not UTF-8 ({error.reason}); save it as UTF-8") from error
    except (ValueError, SafetensorError) as error:
        raise UserError(f"{path.name}: damaged ({error}); make it again") from error
    own = [str(place) for place in (Path.cwd(), Path.home()) if len(place.parts) > 1]
    of_this_machine = rf"(?<![\w.])(?:{'|'.join(map(re.escape, own))})(?![\w.-])"
    if found := (own and re.search(of_this_machine, text)) or PATH.search(text):
        raise UserError(
            f"{path.name}: would publish the path `{found[0]}`; make it relative where it comes "
            "from (the recipe, or a file next to the adapter)"
        )
    if token := SECRET.search(text):
        raise UserError(
            f"{path.name}: would publish an access token (`{token[0][:6]}…`); revoke it, and "
            "remove it where it comes from (the recipe, or a file next to the adapter)"
        )


def _content(path: Path) -> Any:
    """What a reader of the file would see: text, JSON, or names and metadata of weights."""
    if path.is_symlink():
        raise UserError(f"{path.name}: is a link; put the file itself there")
    if path.suffix == ".safetensors":
        with safe_open(path, "numpy") as file:
            return [list(file.keys()), file.metadata() or {}]
    if path.suffix == ".json":
        found = json.loads(path.read_text("utf-8"))
        if path.name == "tokenizer.json" and isinstance(found, dict):
            # a piece of a word may look like a path
            model = found.get("model") or {}
            found["model"] = {k: v for k, v in model.items() if k not in ("vocab", "merges")}
        return found
    if path.suffix in TEXT:
        text = path.read_text("utf-8")  # YAML once more, without the escapes of its strings
        return [text, yaml.safe_load(text)] if path.suffix == ".yml" else text
    if path.name == "tokenizer.model":  # pieces of words, in binary
        return None
    raise UserError(f"{path.name}: is not published; only safetensors, text and JSON are")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, str):
        yield value


if __name__ == "__main__":
    run_cli(main)
