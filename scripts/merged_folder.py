"""A merged model's folder: Axolotl makes it, and it must hold no path of this machine."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from data_prep.errors import UserError, writing_to
from data_prep.hub import model_unavailable
from data_prep.prompt import PromptEncoder
from data_prep.recipe import Recipe
from data_prep.sources import sha256_of
from eval.signature import generation_key, quantization
from training.checkpoints import free_name

RECORD = "merge.json"
PROOF = "merge_proof.json"
LOADED = (".safetensors", ".bin", ".json", ".jinja", ".model")  # what a model is read from
CHANGED = "files since the merge"  # the check of its files
WORDS = 2000  # of Axolotl's output, shown where it fails
DISK = ("No space left on device", "File too large", "Disk quota exceeded", "Read-only file system")

TEXTS = (".json", ".md", ".txt", ".jinja", ".py", ".yml", ".yaml")
MANY_WORDS = ("tokenizer.json", "vocab.json", "added_tokens.json")  # a token may look like a path


def merged_folder(
    recipe: Recipe, adapter: Path, encoder: PromptEncoder, end: int
) -> tuple[Path, bool]:
    """`<output_dir>/merged` of this adapter, and whether it was there already.

    `end` is the token that ends a summary in training. What stands there of another adapter is set
    aside, nothing is deleted. Raises UserError where the disk cannot be written or Axolotl's
    command fails; earlier files are then untouched.
    """
    target = recipe.output_dir / "merged"
    made = made_of(recipe, adapter)
    if recorded(target).get("made_of") == made:
        return target, True
    with _scratch(recipe.output_dir) as scratch:
        fresh = scratch / "merged"
        _run_axolotl(recipe, adapter, scratch)
        publish(fresh, recipe, encoder, end)
        files = {p.name: sha256_of(p) for p in sorted(fresh.iterdir())}
        (fresh / RECORD).write_text(json.dumps({"made_of": made, "files": files}, indent=1))
        if target.exists():
            aside = free_name(recipe.output_dir / "merged-set-aside")
            target.rename(aside)
            print(f"{target}: not of this adapter as it is now; set aside as {aside.name}")
        fresh.rename(target)
    return target, False


def recorded(folder: Path) -> dict[str, Any]:
    """What `merge.json` in a merged folder says; {} where there is none, or a damaged one."""
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        return record if isinstance(record.get("files"), dict) else {}
    except (OSError, ValueError, AttributeError):
        return {}


def changed_files(folder: Path) -> list[str]:
    """Names of files that are not as the merge wrote them: changed, missing, or come besides."""
    files = recorded(folder).get("files", {})
    added = [
        path.name
        for path in sorted(folder.iterdir())
        if path.suffix in LOADED and path.name not in (*files, RECORD, PROOF)
    ]
    return added + [
        name
        for name, digest in files.items()
        if not (folder / name).is_file() or sha256_of(folder / name) != digest
    ]


def made_of(recipe: Recipe, adapter: Path) -> dict[str, Any]:
    """All that decides the merged weights and the tokenizer beside them."""
    key = generation_key(recipe, "tuned", recipe.summarization.decoding, "", adapter)
    method = recipe.config.get("merge_method") or "memory_efficient"
    return {
        "adapter": key["adapter_hash"],
        "base_model": key["base_model_hash"],
        "prompt": key["prompt_hash"],
        "quantized": quantization(recipe.config),
        "method": method,
        "axolotl": version("axolotl"),
    }


@contextmanager
def _scratch(output_dir: Path) -> Iterator[Path]:
    """A folder beside the target, on its disk; removed in the end, as is one of a killed merge."""
    scratch = output_dir / ".merging"
    try:
        with writing_to(scratch):
            if scratch.exists():
                shutil.rmtree(scratch)
            scratch.mkdir()
        with writing_to(output_dir / "merged"):
            yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run_axolotl(recipe: Recipe, adapter: Path, scratch: Path) -> None:
    _check_space(recipe, scratch)
    command = [sys.executable, "-m", "axolotl.cli.merge_lora", str(recipe.path)]
    command += ["--output_dir", str(scratch), "--lora_model_dir", str(adapter)]
    if quantization(recipe.config) == "nf4" and not recipe.config.get("bnb_config_kwargs"):
        # training rounds twice (weights, then their scales); without this the merge rounds once
        command += ["--bnb_config_kwargs", "{'bnb_4bit_use_double_quant': True}"]
    print(f"{recipe.output_dir / 'merged'}: merging by axolotl.cli.merge_lora", file=sys.stderr)
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.returncode and any((scratch / "merged").glob("*.safetensors")):
        return
    for reason in DISK:
        if reason in done.stderr:
            raise OSError(reason)  # _scratch names the folder
    print(done.stdout[-WORDS:], done.stderr[-WORDS:], sep="\n", file=sys.stderr)
    raise UserError(
        f"{recipe.path}: Axolotl's merge failed, its last words stand above; mend what they name. "
        "Earlier files are untouched"
    )


def _check_space(recipe: Recipe, scratch: Path) -> None:
    """Raise UserError where the merged weights, as large as the base model's, do not fit."""
    base = Path(recipe.config["base_model"])
    if not base.is_dir():
        return  # the hub's cache: the size is not known here
    needed = sum(p.stat().st_size for p in base.iterdir() if p.suffix in (".safetensors", ".bin"))
    free = shutil.disk_usage(scratch).free
    if free < needed:
        raise UserError(
            f"{recipe.output_dir / 'merged'}: needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB "
            "are free; free the space or set another output_dir"
        )


def check_fit(recipe: Recipe, adapter: Path) -> None:
    """Raise UserError where weights of the adapter go nowhere, or are of another shape.

    Axolotl's merge leaves out, in silence, whatever finds no place.
    """
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open
    from transformers import AutoConfig, AutoModelForCausalLM

    base_model, revision = recipe.config["base_model"], recipe.config.get("revision_of_model")
    try:
        config = AutoConfig.from_pretrained(base_model, revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(model_unavailable(recipe, error)) from error
    try:
        settings = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
        with safe_open(adapter / "adapter_model.safetensors", framework="pt") as file:
            names = file.keys()
            saved = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        if settings.get("peft_type") != "LORA":
            raise ValueError(f"it is {settings.get('peft_type')}, and only LORA is merged here")
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
            model = get_peft_model(model, LoraConfig.from_pretrained(str(adapter)))
        wanted = {k: tuple(v.shape) for k, v in get_peft_model_state_dict(model).items()}
        if saved != wanted:
            wrong = sorted(key for key, _ in saved.items() ^ wanted.items())
            raise ValueError(f"{wrong[0]} has no counterpart of its shape")
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{adapter}: this adapter does not fit {base_model} ({reason}); train it anew or set "
            "`output_dir`"
        ) from error


def publish(folder: Path, recipe: Recipe, encoder: PromptEncoder, end: int) -> None:
    """Save the recipe's tokenizer into `folder`, and take absolute paths out of its files.

    `end`: the token with which training ended a summary; generation from the folder stops there
    too. Raises UserError where a path of this machine is left.
    """
    encoder.tokenizer.save_pretrained(folder)
    if end not in (stops := stop_tokens(folder)):
        path = folder / "generation_config.json"
        settings = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        settings["eos_token_id"] = [end, *stops]
        path.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    for path in sorted(folder.glob("*.json")):
        if path.name not in MANY_WORDS and not path.name.endswith(".index.json"):
            before = json.loads(path.read_text("utf-8"))
            if (after := _without_paths(before)) != before:
                path.write_text(json.dumps(after, indent=2, ensure_ascii=False) + "\n", "utf-8")
    model_card = folder / "README.md"
    if model_card.is_file():
        text = model_card.read_text("utf-8")
        for place in _places(recipe):
            text = text.replace(f"{place}/", "")
        model_card.write_text(text, "utf-8")
    if left := paths_in(folder, recipe):
        raise UserError(
            f"{left[0]}: names a folder of this machine; take it out of that file of the base model"
        )


def end_token(encoder: PromptEncoder, row: dict[str, Any]) -> int:
    """The token that ends a summary in training."""
    return [label for label in encoder.training_ids(row)[1] if label != -100][-1]


def stop_tokens(folder: Path) -> list[int]:
    """Token ids at which generation from a model's folder stops by its own settings."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        ids = json.loads(path.read_text("utf-8")).get("eos_token_id") if path.is_file() else None
        if ids is not None:
            return list(ids) if isinstance(ids, list) else [ids]
    return []


def paths_in(folder: Path, recipe: Recipe) -> list[str]:
    """Files in `folder` that name a folder of this machine; weights by their metadata."""
    found = []
    for path in sorted(folder.iterdir()):
        text = ""
        if path.suffix in TEXTS:
            text = path.read_text("utf-8", "replace")
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as weights:
                text = json.dumps(weights.metadata() or {})
        if any(place in text for place in _places(recipe)):
            found.append(path.name)
    return found


def _places(recipe: Recipe) -> list[str]:
    """Folders of this machine that a file may name: the run's own, the model's, the recipe's."""
    base = Path(recipe.config["base_model"])
    places = [Path.cwd(), recipe.output_dir.resolve(), recipe.path.resolve().parent]
    places += [base.resolve(), base.absolute()] if base.is_dir() else []
    return [str(p) for p in sorted(set(places), key=lambda p: -len(str(p))) if len(p.parts) > 2]


def _without_paths(value: Any) -> Any:
    """The same JSON, each absolute path in it cut down to its last name."""
    if isinstance(value, dict):
        return {key: _without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_paths(inner) for inner in value]
    if isinstance(value, str) and "\n" not in value and Path(value).is_absolute():
        return Path(value).name
    return value


def proved(recipe: Recipe, adapter: Path) -> tuple[Path, dict[str, Any]]:
    """`<output_dir>/merged` and its proof; raises UserError where that does not stand there."""
    folder = recipe.output_dir / "merged"
    again = f"run `python -m scripts.merge {recipe.path}`"
    if recorded(folder).get("made_of") != made_of(recipe, adapter):
        raise UserError(f"{folder}: holds no merge of this adapter; {again}")
    if changed := changed_files(folder):
        raise UserError(
            f"{folder}: {', '.join(changed[:3])} changed since the merge; remove the folder, and "
            f"{again}"
        )
    try:
        proof = json.loads((folder / PROOF).read_text("utf-8"))
        good, exceeded = proof["good"], proof["exceeded"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{folder / PROOF}: missing or damaged ({error}); {again}") from error
    if not good:
        raise UserError(
            f"{folder / PROOF}: says that the merge is not good ({'; '.join(exceeded)}); publish "
            "the adapter, without --merged"
        )
    return folder, proof
