"""Why a base model or its tokenizer cannot be had, in one line that says what to do about it."""

from collections.abc import Iterator
from pathlib import Path

from data_prep.recipe import Recipe


def model_unavailable(recipe: Recipe, error: BaseException) -> str:
    """One line for a base model (or its tokenizer) that cannot be loaded.

    transformers wraps what huggingface_hub raised, so that the whole chain is looked at.
    """
    base_model = str(recipe.config["base_model"])
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    what, mend = _cause(base_model, error) or (reason, _generic(base_model))
    return f"{recipe.path}: base_model {base_model} cannot be loaded ({what}); {mend}"


def _cause(base_model: str, error: BaseException) -> tuple[str, str] | None:
    from huggingface_hub import errors
    from safetensors import SafetensorError

    if Path(base_model).is_dir():
        if any(isinstance(link, SafetensorError) for link in _chain(error)):
            return "its weights are cut short", "copy or download the folder again"
        return None
    if _is_path(base_model):
        mend = "run scripts/get_smollm2.py" if "smollm2" in base_model else "correct the path"
        return "no such folder", mend
    again = f"`hf download {base_model}`"
    for link in _chain(error):
        if isinstance(link, errors.GatedRepoError):
            page = f"https://huggingface.co/{base_model}"
            mend = f"accept its licence at {page}, then `hf auth login`, or set HF_TOKEN"
            return "it is gated, and this account has no access", mend
        if isinstance(link, errors.RepositoryNotFoundError):
            mend = "correct the name; where it is private, `hf auth login`"
            return "the hub knows no such model, or it is private", mend
        if isinstance(link, errors.RevisionNotFoundError):
            return "the hub knows no such revision", "correct `revision_of_model`"
        if isinstance(link, SafetensorError):
            return "its weights are cut short in the hub's cache", f"run {again} --force-download"
        if isinstance(link, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
            mend = f"run {again} where there is a network, unset HF_HUB_OFFLINE, or name a folder"
            return "the hub is offline, and its cache lacks files of it", mend
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
