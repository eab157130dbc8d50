"""Show which files of a trained adapter would go to the Hub, and upload them with `--yes`.

    python -m scripts.publish recipes/smollm2_samsum.yml --repo user/name [--merged]

Writes `outputs/<recipe>/publish/`: the model card, the adapter (safetensors only), its tokenizer,
the recipe and its scores, each with only the fields listed here and without comments. A file that
contains a secret or an absolute path is refused. `--merged` publishes the model that scripts.merge
made and proved, with the proof in the card, from `publish-merged/`. Prepare, train and evaluate
first. Without `--yes` nothing leaves this machine.
"""

import json
import re
import shutil
from collections.abc import Collection
from dataclasses import fields
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import httpx
import yaml
from filelock import FileLock
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from pydantic_core import from_json
from safetensors import SafetensorError, safe_open

from data_prep.errors import UserError, run_cli, temporary_folder, writing_to
from data_prep.options import Options
from data_prep.recipe import load_recipe
from data_prep.sources import sha256_of
from eval.adapter import ADAPTER, flatten
from scripts.leaks import check_file, opened
from scripts.merge_proof import PROOF, Proof, read_merge_record, read_proved_merge
from scripts.model_card import (
    Names,
    Records,
    example_of,
    model_card,
    names_of,
    portable,
    read_records,
)

STATUS = {
    401: "refused the token; log in again with `hf auth login`, or set HF_TOKEN",
    403: "the token may not write there; use one with the `write` role, or your own user name",
    404: "not found, or not visible with this token; check the name and the token",
}

# ---- what is published: files and their fields ----

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model",
    "chat_template.jinja",
)  # fmt: skip
MERGED_FILES = (
    "config.json", "generation_config.json", "model.safetensors", "model-[0-9]*.safetensors",
    "model.safetensors.index.json", PROOF,
)  # fmt: skip
ADAPTER_FILES = (ADAPTER, "adapter_config.json")
FILES = ("README.md", "recipe.yml", "scores.json", *ADAPTER_FILES, *MERGED_FILES, *TOKENIZER_FILES)
# Recipe keys whose text is published, with everything below them. Of other keys only numbers and
# booleans are published, since tokens, passwords and server addresses are text.
TEXT_KEYS = {
    "summarization", "base_model", "revision_of_model", "type_of_model", "model_type", "adapter",
    "attn_implementation", "chat_template", "chat_template_jinja", "tokenizer_type",
    "tokenizer_config", "special_tokens", "tokens", "added_tokens_overrides", "eot_tokens",
    "output_dir", "dataset_prepared_path", "plugins", "optimizer", "lr_scheduler", "loss_type",
    "lora_target_modules", "lora_target_parameters", "lora_modules_to_save", "optim_target_modules",
    "peft_init_lora_weights", "peft_layers_pattern", "unfrozen_parameters", "merge_method",
    "eval_strategy", "save_strategy", "metric_for_best_model", "excess_length_strategy", "bf16",
    "fp16", "tf32", "torch_dtype", "gradient_checkpointing", "torch_compile", "deepspeed", "fsdp",
    "auto_wrap_policy", "transformer_layer_cls_to_wrap", "state_dict_type", "sharding_strategy",
    "final_state_dict_type", "bnb_4bit_quant_type", "bnb_4bit_compute_dtype", "rl",
    # in an entry of `datasets`
    "path", "type", "ds_type", "split", "field_messages", "message_property_mappings", "roles",
    "message_field_role", "message_field_content", "message_field_training", "roles_to_train",
    "message_field_training_detail", "train_on_eos", "train_on_eot", "field_system", "field_tools",
}  # fmt: skip
TRACKER = re.compile(
    r"(use_|hf_)?(wandb|mlflow|comet|trackio|swanlab|tensorboard|otel|hub|ray|gradio)(_|\b)"
)
TOKENIZER_KEYS = {
    "bos_token", "eos_token", "pad_token", "unk_token", "mask_token", "sep_token", "cls_token",
    "additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens",
    "added_tokens_decoder", "add_bos_token", "add_eos_token", "add_prefix_space", "backend",
    "chat_template", "clean_up_tokenization_spaces", "do_lower_case", "errors", "extra_ids",
    "fix_mistral_regex", "legacy", "model_input_names", "model_max_length", "padding_side",
    "processor_class", "sp_model_kwargs", "spaces_between_special_tokens", "split_special_tokens",
    "tokenizer_class", "truncation_side", "use_default_system_prompt",
}  # fmt: skip
TOKENIZER_JSON_KEYS = {
    "version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
    "post_processor", "decoder", "model",
}  # fmt: skip


def main() -> None:
    """Stage the files, show them, and upload them with `--yes`."""
    parser = Options(
        "scripts.publish", __doc__.splitlines()[0],
        "recipes/smollm2_samsum.yml", "recipes/smollm2_samsum.yml --repo user/name --private --yes",
        "my_recipe.yml --merged --base-model HuggingFaceTB/SmolLM2-135M-Instruct",
    )  # fmt: skip
    parser.add_argument("recipe", type=Path, help="recipe file")
    parser.add_argument("--repo", help="user/name (default: summarization.publish.repo)")
    parser.add_argument("--base-model", help="the base model's Hub id, if the recipe's is local "
                        "(default: summarization.publish.base_model)")  # fmt: skip
    parser.add_argument(
        "--merged", action="store_true", help="publish the merged model instead of the adapter"
    )
    parser.add_argument(
        "--private", action="store_true", help="if the repository is new, make it private"
    )
    parser.add_argument(
        "--yes", action="store_true", help="upload; without it nothing leaves this machine"
    )
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    repo: str = args.repo or recipe.summarization.publish.repo or ""
    if repo:
        check_repo(repo)
    if args.yes:
        if not repo:
            raise UserError("--yes: no target; add --repo user/name")
        check_access(repo)
    records = read_records(recipe)
    names = names_of(recipe, records.manifest.source_files, args.base_model)
    merged, proof = read_proved_merge(recipe, records.adapter) if args.merged else (None, None)
    card = model_card(records, names, repo, proof, example_of(records))
    folder = stage(records, names, card, merged)
    print(f"{folder}:")
    for path in sorted(folder.iterdir()):
        size, digest = path.stat().st_size, sha256_of(path)[:16]
        print(f"  {path.name:<28} {size:>13,} bytes  sha256 {digest}")
    print("metadata of the model card:", *card.data.to_yaml().splitlines(), sep="\n  ")
    visible = "private" if args.private else "public if it is new"
    print(f"target: {f'{repo}, {visible}' if repo else 'none named; add --repo user/name'}")
    if args.yes:
        print(f"uploaded: {upload(folder, repo, args.private)}")
    else:
        print("nothing was uploaded; add --yes to do so")


def stage(records: Records, names: Names, card: ModelCard, merged: Path | None = None) -> Path:
    """Write the staging folder and check its files; the old folder stays until that has succeeded.

    Raises UserError if the folder cannot be written or contains files that this program did not
    write, or if a file must not be published.
    """
    folder = records.adapter / ("publish-merged" if merged else "publish")
    with writing_to(folder), FileLock(_sums(folder).with_suffix(".lock")):  # waits for another run
        check_staged(folder)
        with temporary_folder(beside=folder) as partial:
            _write_records(partial, records, names, card)
            _write_model(partial, records, names, merged)
            inputs = read_merge_record(merged).made_of.values() if merged else ()
            revisions = records.manifest.revision, records.recipe.config.get("revision_of_model")
            known = (*records.manifest.files.values(), *revisions, *inputs)  # they look like tokens
            for path in sorted(partial.iterdir()):
                check_file(path, {str(value).lower() for value in known})
            lines = {_sum_line(path) for path in partial.iterdir()}
            with _sums(folder).open("a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in sorted(lines - written(folder)))
            for path in check_staged(folder):
                path.unlink()
            if folder.exists():
                folder.rmdir()  # fails if a file was added meanwhile
            partial.rename(folder)
    return folder


def _sums(folder: Path) -> Path:
    """Return the path of the list of all files ever staged: lines as `sha256sum` writes them."""
    return folder.with_name(f".staged{folder.name.removeprefix('publish')}.sha256")


def _sum_line(path: Path) -> str:
    return f"{sha256_of(path)}  {path.name}"


def written(folder: Path) -> set[str]:
    """Return the lines for the files that this program wrote into a staging folder."""
    path = _sums(folder)
    return set(path.read_text("utf-8", "replace").splitlines()) if path.is_file() else set()


def check_staged(folder: Path) -> list[Path]:
    """Return a staging folder's files; raise UserError if one is not as this program wrote it."""
    for path in (folder, _sums(folder)):
        is_wrong = path.is_file() if path.suffix != ".sha256" else path.is_dir()
        if path.is_symlink() or is_wrong:
            raise UserError(f"{path}: something else with this name is in the way; move it away")
    paths, known = sorted(folder.iterdir()) if folder.exists() else [], written(folder)
    for path in paths:
        if path.is_symlink() or not path.is_file() or _sum_line(path) not in known:
            raise UserError(
                f"{path}: was not written by this program, or changed since; move it out of "
                f"{folder} and run the same command again (your own text for the card goes into "
                "summarization.publish.note in the recipe)"
            )
    return paths


# ---- files, each with its listed fields only ----

DAMAGED = (ValueError, LookupError, TypeError, AttributeError, SafetensorError)


def _write_records(folder: Path, records: Records, names: Names, card: ModelCard) -> None:
    """Write card, recipe and scores, with portable names instead of this machine's paths."""
    config, places = records.recipe.config, portable(records.recipe, names)
    public = published(config, places)
    (folder / "README.md").write_text(str(card), "utf-8")
    text = yaml.safe_dump(public, sort_keys=False, allow_unicode=True, width=100)
    (folder / "recipe.yml").write_text(text, "utf-8")
    _say_left_out("recipe.yml", dict(flatten(config)).keys() - dict(flatten(public)).keys())
    scores = records.scores.model_dump()
    scores |= {key: places.get(scores[key], scores[key]) for key in ("base_model", "source")}
    scores["settings"] = published(scores["settings"], places)
    _write_json(folder / "scores.json", scores)


def published(value: Any, places: dict[str, str], is_listed: bool = False) -> Any:
    """Return a recipe without the keys of trackers and without text outside the keys in TEXT_KEYS.

    Keys may be flattened, such as `datasets[0].type`.
    """
    if isinstance(value, dict):
        result = {}
        for key, item in value.items():
            listed = is_listed or not TEXT_KEYS.isdisjoint(re.findall(r"[^\W\d]\w*", str(key)))
            inner = published(item, places, listed)
            if not TRACKER.match(str(key)) and (inner is not None or item is None):
                result[key] = inner
        return result
    if isinstance(value, list):
        items = [published(item, places, is_listed) for item in value]
        return [item for item in items if item is not None]
    if isinstance(value, (bool, int, float)):
        return value
    return places.get(str(value), value) if is_listed else None


def _write_model(folder: Path, records: Records, names: Names, merged: Path | None) -> None:
    """Write only the listed model files; Axolotl's own README, for example, is left out."""
    patterns = (*(MERGED_FILES if merged else ADAPTER_FILES), *TOKENIZER_FILES)
    for path in sorted((merged or records.adapter).iterdir()):
        if not any(fnmatch(path.name, pattern) for pattern in patterns):
            continue
        target = folder / path.name
        with opened(path) as file:
            try:
                if path.suffix != ".json":
                    with target.open("wb") as copy:
                        shutil.copyfileobj(file, copy, 1 << 24)
                    if path.suffix == ".safetensors":
                        _without_metadata(path, target)
                    continue
                content = from_json(file.read())
                listed = _fields(path.name, content)
                public = {key: value for key, value in content.items() if key in listed}
            except DAMAGED as error:
                reason = " ".join(str(error).split())[:120]
                raise UserError(
                    f"{path}: damaged ({reason}); restore it, or train again"
                ) from error
        if path.name == "adapter_config.json":
            public["base_model_name_or_path"] = names.base_model
            if names.local_base:
                public["revision"] = None  # it is the folder's, not the Hub model's
        _write_json(target, public)
        _say_left_out(path.name, content.keys() - public.keys())


def _without_metadata(path: Path, target: Path) -> None:
    """Save weights again if their header has more metadata than the framework's name."""
    with safe_open(path, "pt") as weights:
        metadata = weights.metadata() or {}
    if metadata not in ({}, {"format": "pt"}):
        from safetensors.torch import load_file, save_file

        save_file(load_file(path), target, {"format": "pt"})
        _say_left_out(path.name, metadata.keys())


def _fields(name: str, content: dict[str, Any]) -> Collection[str]:
    """Return the fields of a JSON file to publish: those that its reader knows."""
    if name == "adapter_config.json":
        from peft import PEFT_TYPE_TO_CONFIG_MAPPING

        config_class = PEFT_TYPE_TO_CONFIG_MAPPING[content["peft_type"]]
        return {"peft_version", *(field.name for field in fields(config_class))}
    if name == "config.json":
        from transformers import CONFIG_MAPPING

        return {"architectures", "dtype", *CONFIG_MAPPING[content["model_type"]]().to_dict()}
    if name == "generation_config.json":
        from transformers import GenerationConfig

        return GenerationConfig().to_dict()
    if name == PROOF:
        return Proof.model_fields.keys() - {"digest"}
    return {
        "tokenizer.json": TOKENIZER_JSON_KEYS,
        "model.safetensors.index.json": ("metadata", "weight_map"),
    }.get(name, TOKENIZER_KEYS)


def _say_left_out(name: str, keys: Collection[str]) -> None:
    if keys:
        print(f"left out of {name}: {ascii(', '.join(sorted(keys)))[1:-1]}")


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


# ---- upload ----


def check_repo(repo: str) -> None:
    """Raise UserError if `repo` is not a valid model id on the Hub."""
    try:
        validate_repo_id(repo)
        owner, name = repo.split("/")
        if not (owner and name):
            raise ValueError
    except (HFValidationError, ValueError) as error:
        raise UserError(
            f"--repo: {repo} is not a valid Hub id; give user/name, at most 96 letters, digits, "
            "`-`, `_` and `.`"
        ) from error


def check_access(repo: str) -> None:
    """Raise UserError if uploading is impossible: offline mode is set, or there is no token."""
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{repo}: HF_HUB_OFFLINE is set; unset it to upload")
    if get_token() is None:
        raise UserError(f"{repo}: no Hugging Face token found; run `hf auth login` or set HF_TOKEN")


def upload(folder: Path, repo: str, private: bool) -> str:
    """Create the repository if needed, upload in one commit, and return the commit's URL.

    Uploads only listed files, and only if they are unchanged since they were staged.
    """
    check_repo(repo)
    check_access(repo)
    staged, files = written(folder), []
    for path in sorted(folder.iterdir()):
        if any(fnmatch(path.name, pattern) for pattern in FILES):
            with opened(path):
                file = CommitOperationAdd(path.name, path)
            if f"{file.upload_info.sha256.hex()}  {path.name}" not in staged:
                raise UserError(f"{path}: changed since it was staged; run the same command again")
            files.append(file)
    api, advice = HfApi(), "nothing was changed on this machine; run the same command again"
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.repo_info(repo).private:
            raise UserError(
                f"{repo}: already exists and is public; make it private in its settings on the "
                "Hub, or leave out --private"
            )
        commit = api.create_commit(repo, files, commit_message="Adapter, card and records")
    except HfHubHTTPError as error:
        reason = STATUS.get(
            status := error.response.status_code, f"the Hub answered {status}; {advice}"
        )
        raise UserError(f"{repo}: {reason} (it says: {error.server_message or status})") from error
    except (httpx.HTTPError, OSError) as error:
        raise UserError(
            f"{repo}: the Hub cannot be reached ({type(error).__name__}: {error}); check the "
            f"network; {advice}"
        ) from error
    except (ValueError, RuntimeError) as error:  # the client refuses a card, a file or an answer
        raise UserError(f"{repo}: the Hub's client gave up ({error}); {advice}") from error
    return str(commit.commit_url)


if __name__ == "__main__":
    run_cli(main)
