"""The base model's files: their settings, whether they are complete, why they fail to load."""

import json
import re
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from data_prep.errors import UserError, reading
from data_prep.recipe import Recipe

OLD_HEADER = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # of torch.save's files before 2020


def model_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments for every `from_pretrained` call on the recipe's base model.

    Raises UserError if the model's config selects an attention kernel on the Hub (`owner/name`),
    because transformers would download and load its code.
    """
    name = str(config["base_model"])
    folder = Path(name) if Path(name).is_dir() else snapshot(name, config)
    config_text = json.dumps(_own_config(folder)) if folder else ""
    for value in re.findall(r'_implementation\w*": ("[^"]*"|{[^}]*})', config_text):
        if "/" in value:
            raise UserError(
                f"{folder}/config.json: `_attn_implementation` selects code on the Hub ({value}); "
                "remove it there, and set `attn_implementation` in the recipe"
            )
    return {
        "revision": config.get("revision_of_model") or "main",
        "trust_remote_code": bool(config.get("trust_remote_code")),
    }


def empty_model(recipe: Recipe) -> Any:
    """Return the base model on PyTorch's `meta` device, without memory for its weights.

    Raises UserError if the model's config cannot be read.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    arguments = model_arguments(recipe.config)
    try:
        config = AutoConfig.from_pretrained(recipe.config["base_model"], **arguments)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                config, trust_remote_code=arguments["trust_remote_code"]
            )
    except Exception as error:  # a config may contain anything
        raise UserError(model_unavailable(recipe, error)) from error


def end_token_ids(config: dict[str, Any]) -> list[int]:
    """Return the ids of the end tokens in the model's generation config (Llama 3 has three).

    Empty if the model has no such file or cannot be reached.
    """
    from transformers import GenerationConfig

    revision = model_arguments(config)["revision"]
    try:
        generation = GenerationConfig.from_pretrained(config["base_model"], revision=revision)
    except Exception:  # the file may contain anything
        return []
    ids = generation.eos_token_id
    return ids if isinstance(ids, list) else [] if ids is None else [ids]


def max_positions(config: dict[str, Any]) -> int | None:
    """Return how many tokens the base model has positions for; None if there is no limit.

    Models without positions (Mamba), or with only sliding-window attention, have no limit. Also
    None if the model's config cannot be read.
    """
    from transformers import AutoConfig

    try:
        model_config = AutoConfig.from_pretrained(config["base_model"], **model_arguments(config))
    except Exception:  # the config may contain anything
        return None
    model_config = model_config.get_text_config()
    limit = getattr(model_config, "max_position_embeddings", None)
    window = getattr(model_config, "sliding_window", None)
    layer_types = set(getattr(model_config, "layer_types", None) or ["sliding_attention"])
    if not limit or (window and window < limit and layer_types == {"sliding_attention"}):
        return None
    rope = getattr(model_config, "rope_parameters", None) or {}
    rope_type, factor = rope.get("rope_type"), rope.get("factor") or 1
    if rope_type in ("linear", "dynamic"):  # the config has the length before scaling
        return int(limit * factor)
    if rope_type == "yarn":  # before scaling (Qwen) or after it (DeepSeek)
        return max(limit, int(factor * rope.get("original_max_position_embeddings", limit)))
    return int(limit)


def model_unavailable(recipe: Recipe, error: BaseException) -> str:
    """Return a one-line message for a base model (or its tokenizer) that cannot be loaded.

    transformers wraps huggingface_hub's errors, so the whole chain of causes is searched.
    """
    base_model = str(recipe.config["base_model"])
    if cause := _cause(base_model, error):
        what, fix = cause
    else:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        fix = "set it to a local folder, or check the network and `hf auth login`"
        if Path(base_model).is_dir():
            fix = "the folder must contain config.json, the tokenizer and all weights"
    return f"{recipe.path}: base_model {base_model} cannot be loaded ({what}); {fix}"


def _cause(base_model: str, error: BaseException) -> tuple[str, str] | None:
    from huggingface_hub import errors
    from safetensors import SafetensorError

    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None:
        chain.append(link)
        link = link.__cause__ or link.__context__
    if any("trust_remote_code" in str(link) for link in chain):
        fix = "read the code and, if you trust it, set `trust_remote_code: true`"
        return "it has its own code, which runs only if the recipe allows it", fix
    if Path(base_model).is_dir():
        if any(isinstance(link, SafetensorError) for link in chain):
            return "its weights are truncated", "copy or download the folder again"
        return None
    # a Hub id is `owner/name` or `name`, so this can only be a folder
    if base_model.startswith(("/", ".", "models/")) or base_model.count("/") > 1:
        fix = "run scripts/get_smollm2.py" if "smollm2" in base_model else "correct the path"
        return "no such folder", fix
    download = f"`hf download {base_model}`"
    offline = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
    known: list[tuple[Any, str, str]] = [
        (errors.GatedRepoError, "it is gated, and this account has no access",
         f"accept its licence at https://huggingface.co/{base_model}, then `hf auth login`, or set "
         "HF_TOKEN"),
        (errors.RepositoryNotFoundError, "the Hub has no such model, or it is private",
         "correct the name; if it is private, run `hf auth login`"),
        (errors.RevisionNotFoundError, "the Hub has no such revision of it",
         "correct `revision_of_model`"),
        (SafetensorError, "its weights are truncated in the Hub's cache",
         f"run {download} --force-download"),
        (offline, "the Hub is not reachable, and its cache lacks files of the model",
         f"run {download} with a network connection, unset HF_HUB_OFFLINE, or use a folder"),
    ]  # fmt: skip
    causes = ((what, fix) for link in chain for kind, what, fix in known if isinstance(link, kind))
    return next(causes, None)


def check_weights(recipe: Recipe) -> tuple[list[str], str]:
    """Return the problems of the model's files, or else a sentence on where they are."""
    from huggingface_hub import constants

    name = str(recipe.config["base_model"])
    local = Path(name).is_dir()
    folder = Path(name) if local else snapshot(name, recipe.config)
    if folder is None:
        return [], f"{name} is not in the Hub's cache: training downloads it"
    files, damaged_index = weight_files(folder)
    if damaged_index:
        return [f"{recipe.path}: base_model: {damaged_index}"], ""
    missing = [file for file in files if not (folder / file).is_file()]
    broken = [f for f in files if f not in missing and not is_complete_file(folder / f)]
    problem, fix = "", "copy the folder again"
    if broken:
        problem = f"{broken[0]} is truncated or damaged"
        fix = fix if local else f"run `hf download {name} --force-download`"
    elif missing and (local or constants.HF_HUB_OFFLINE):
        names = f"{missing[0]} and {len(missing) - 1} more" if len(missing) > 1 else missing[0]
        problem = f"incomplete download: {names} missing"
        fix = fix if local else f"run `hf download {name}` with a network connection"
    if problem:
        return [f"{recipe.path}: base_model {name}: {problem}; {fix}"], ""
    if missing:
        return [], f"{name}: training downloads {len(missing)} of {len(files)} weight files"
    if not files:
        return [], f"{name}: has no weights yet, and training needs them"
    return [], f"{name}: {len(files)} weight file(s), all complete"


def weight_files(folder: Path) -> tuple[list[str], str]:
    """Return the names of a model's weight files, and what is wrong with their index."""
    # transformers reads the file that the config names, if it names one
    configured = str(_own_config(folder).get("transformers_weights") or "")
    if configured and not configured.endswith(".index.json"):
        return [configured], ""
    usual = ("model.safetensors", "pytorch_model.bin")  # in transformers' order
    for single in filter(None, (configured.removesuffix(".index.json"), *usual)):
        index = folder / f"{single}.index.json"
        if index.is_file():
            try:
                with reading(index, "download it again"):
                    return sorted(set(json.loads(index.read_bytes())["weight_map"].values())), ""
            except UserError as error:
                return [], str(error)
        if (folder / single).exists():
            return [single], ""
    return [], ""


def _own_config(folder: Path) -> dict[str, Any]:
    """Return a model's config.json; empty if it cannot be read, which its loader will report."""
    with suppress(Exception), reading(folder / "config.json", ""):
        return dict(json.loads((folder / "config.json").read_bytes()))
    return {}


def snapshot(name: str, config: dict[str, Any]) -> Path | None:
    """Return the model's folder in the Hub's cache, even if incomplete; None if there is none."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(
            name, "config.json", revision=config.get("revision_of_model") or "main"
        )
    except HFValidationError:
        return None
    return Path(path).parent if isinstance(path, str) else None


def is_complete_file(path: Path, read_all: bool = False) -> bool:
    """Return whether a file of weights or states has the length that its own header gives.

    `read_all`: for a file of torch.save, also compare its contents with its checksums.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "numpy"):  # reads the header, and compares it with the size
                return True
        except SafetensorError:
            return False
    if path.suffix not in (".pt", ".pth", ".bin"):
        return True
    with path.open("rb") as file:
        if file.read(len(OLD_HEADER)) == OLD_HEADER:
            return True
    try:  # torch.save writes zip files, the directory last
        with zipfile.ZipFile(path) as archive:
            return not read_all or archive.testzip() is None
    except (zipfile.BadZipFile, EOFError, NotImplementedError):
        return False
