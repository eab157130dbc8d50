"""Why a base model or its tokenizer is not available, in one line that says what to do about it."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.recipe import Recipe

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


def model_unavailable(recipe: Recipe, error: BaseException) -> str:
    """One line for a base model (or its tokenizer) that cannot be loaded.

    transformers wraps what huggingface_hub raised, so that the whole chain is looked at.
    """
    base_model = str(recipe.config["base_model"])
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    what, fix = _cause(base_model, error) or (reason, _generic(base_model))
    return f"{recipe.path}: base_model {base_model} cannot be loaded ({what}); {fix}"


def _cause(base_model: str, error: BaseException) -> tuple[str, str] | None:
    from huggingface_hub import errors
    from safetensors import SafetensorError

    if Path(base_model).is_dir():
        if any(isinstance(link, SafetensorError) for link in _chain(error)):
            return "its weights are cut short", "copy or download the folder again"
        return None
    if _is_path(base_model):
        fix = "run scripts/get_smollm2.py" if "smollm2" in base_model else "correct the path"
        return "no such folder", fix
    again = f"`hf download {base_model}`"
    for link in _chain(error):
        if isinstance(link, errors.GatedRepoError):
            page = f"https://huggingface.co/{base_model}"
            fix = f"accept its licence at {page}, then `hf auth login`, or set HF_TOKEN"
            return "it is gated, and this account has no access", fix
        if isinstance(link, errors.RepositoryNotFoundError):
            fix = "correct the name; where it is private, `hf auth login`"
            return "the hub knows no such model, or it is private", fix
        if isinstance(link, errors.RevisionNotFoundError):
            return "the hub knows no such revision", "correct `revision_of_model`"
        if isinstance(link, SafetensorError):
            return "its weights are cut short in the hub's cache", f"run {again} --force-download"
        if isinstance(link, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
            fix = f"run {again} where there is a network, unset HF_HUB_OFFLINE, or name a folder"
            return "the hub is offline, and its cache lacks files of it", fix
    return None


def _generic(base_model: str) -> str:
    if Path(base_model).is_dir():
        return "the folder must hold config.json, the tokenizer and all weights"
    return "set it to a local folder, or check the network and `hf auth login`"


def _is_path(name: str) -> bool:
    """Whether a name can only be a folder: a hub's id is `owner/name` or `name`."""
    return Path(name).is_absolute() or name.startswith((".", "models/")) or name.count("/") > 1


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def check_weights(recipe: Recipe) -> tuple[list[str], str]:
    """What is wrong with the model's files, and else a sentence on where they are."""
    name = str(recipe.config["base_model"])
    local = Path(name).is_dir()
    folder = Path(name) if local else snapshot(name, recipe.config)
    if folder is None:
        return [], f"{name} is not in the hub's cache: training downloads it"
    wanted, damaged_index = _files(folder)
    if damaged_index:
        return [f"{recipe.path}: base_model: {damaged_index}"], ""
    missing = [file for file in wanted if not (folder / file).is_file()]
    broken = [f for f in wanted if f not in missing and not is_whole(folder / f)]
    again = "copy the folder again" if local else f"run `hf download {name} --force-download`"
    if broken:
        return [f"{recipe.path}: base_model {name}: {broken[0]} is cut short; {again}"], ""
    if missing and (local or _offline()):
        if not local:
            again = f"run `hf download {name}` where there is a network"
        many = f"{missing[0]} and {len(missing) - 1} more" if len(missing) > 1 else missing[0]
        problem = f"{recipe.path}: base_model {name}: half of a download: {many} missing; {again}"
        return [problem], ""
    if missing:
        return [], f"{name}: training downloads {len(missing)} of {len(wanted)} files of weights"
    if not wanted:
        return [], f"{name}: no weights are there yet, and training needs them"
    return [], f"{name}: {len(wanted)} file(s) of weights, all whole"


def _files(folder: Path) -> tuple[list[str], str]:
    """Names of the files of weights that a model's folder should hold; what is wrong with these."""
    index = folder / INDEX
    if index.is_file():
        try:
            return sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values())), ""
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            return [], f"{index} is damaged ({error!r}); download it again"
    return [SINGLE] if (folder / SINGLE).exists() else [], ""


def snapshot(name: str, config: dict[str, Any]) -> Path | None:
    """Where the hub's cache has the model, as far as it has it."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(
            name, "config.json", revision=config.get("revision_of_model") or "main"
        )
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def is_whole(path: Path) -> bool:
    """Whether a file of weights or states ends where its own header says that it ends."""
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            header = file.read(8)
            length = int.from_bytes(header, "little")
            size = path.stat().st_size
            if len(header) < 8 or length > size - 8:
                return False
            try:
                tensors = json.loads(file.read(length))
            except ValueError:
                return False
        ends = [v["data_offsets"][1] for k, v in tensors.items() if k != "__metadata__"]
        return size == 8 + length + max(ends, default=0)
    if path.suffix in (".pt", ".pth", ".bin"):  # torch.save writes zip files, the directory last
        return zipfile.is_zipfile(path)
    return True
