"""Signatures: every setting that could change a score, in one line, modelled on sacrebleu's.

`rouge|n:819|agg:mean-f1|stem:porter|...`: two results are comparable if the important parts agree.
"""

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from data_prep.hub import weight_files
from data_prep.prompt import template_hash
from data_prep.recipe import Recipe
from data_prep.settings import Decoding
from data_prep.sources import sha256_of
from eval.adapter import PROMPT
from eval.language import Scoring

# What two results must share to be compared; WHERE_KNOWN only if both have it.
SCORING = ("metric", "n", "agg", "stem", "tok", "lsum", "empty", "multi", "clusters", "strip")
ALWAYS = (*SCORING, "refs", "rouge_score")
WHERE_KNOWN = ("decoding", "prompt", "template")
# Keys of an entry in `datasets:` that only say where its rows are; others may change prompts.
LOCATION_KEYS = ("path", "name", "split", "ds_type", "data_files", "type")
ROOT = Path(__file__).parent.parent
# Files in a model folder that no loader reads, or that our commands add to it later.
NOT_READ = re.compile(r"\..*|.*\.(md|log)|merge_proof\.json")


def scoring_fields(
    references: Sequence[Sequence[str]], scoring: Scoring, clusters: Sequence[str] | None = None
) -> dict[str, str]:
    """Return the fields that all results on these references share.

    `multi`: how several references of a dialogue are scored; `clusters`: the number of dialogues,
    if some rows share one.
    """
    several = any(len(texts) > 1 for texts in references)
    one_each = [texts[0] if len(texts) == 1 else list(texts) for texts in references]
    return {
        "metric": "rouge",
        "n": str(len(references)),
        "agg": "mean-f1",
        **scoring.fields(),
        "empty": "0",
        **({"multi": "best-f1"} if several else {}),
        **({"clusters": str(len(set(clusters)))} if clusters else {}),
        "refs": _hash(one_each)[:8],
        "rouge_score": version("rouge_score"),
        "numpy": version("numpy"),
        "commit": commit(),
    }


class GenerationKey(BaseModel):
    """All that decides a model's predictions; hashes are SHA-256, `data` is that of the rows."""

    model: str
    quantized: str | None = None  # nf4 or int8
    base_model: str
    base_model_hash: str
    adapter_hash: str | None
    prompt_hash: str
    template_hash: str | None = None  # of the chat template's text and output
    files_hash: str | None = None  # of other files in the model and tokenizer folders
    decoding: Decoding
    data: str

    def matches(self, saved: "GenerationKey | None") -> bool:
        """Return whether a saved key equals this one; old keys may lack template and files."""
        if saved:
            newer_fields = ("template_hash", "files_hash")
            missing = {n: getattr(self, n) for n in newer_fields if getattr(saved, n) is None}
            saved = saved.model_copy(update=missing)
        return saved == self


def generation_fields(key: GenerationKey, versions: dict[str, str]) -> dict[str, str]:
    """Return the fields of a generation key, and the packages that made the predictions."""
    fields = {
        "model": "-".join(filter(None, [key.base_model_hash[:8], key.quantized])),
        "adapter": (key.adapter_hash or "none")[:8],
        "prompt": key.prompt_hash[:8],
        **({"template": key.template_hash[:8]} if key.template_hash else {}),
        **({"files": key.files_hash[:8]} if key.files_hash else {}),
        "decoding": _decoding_word(key.decoding),
        "data": key.data[:8],
    }
    return fields | versions


def engine_versions(engine: str) -> dict[str, str]:
    """Return the versions of the installed packages that an engine uses."""
    versions = {name: version(name) for name in ("torch", "transformers", "peft")}
    if engine == "vllm":
        import vllm

        versions["vllm"] = vllm.__version__
    return versions


def line(fields: dict[str, str]) -> str:
    """Return the signature as one line."""
    rest = (f"{name}:{value}" for name, value in fields.items() if name != "metric")
    return "|".join([fields["metric"], *rest])


def differences(first: dict[str, str], second: dict[str, str], of_models: bool = True) -> list[str]:
    """Return the important fields that differ, as `name: first, second`, for an error message.

    The engine matters only for sampling: otherwise two engines differ only by rounding.
    `of_models`: prompt and decoding matter too.
    """
    if engines(first, second):
        first, second = (
            {**side, "decoding": side["decoding"].partition("-")[2]} for side in (first, second)
        )
    known = WHERE_KNOWN if of_models else ()
    names = [*ALWAYS, *(name for name in known if name in first and name in second)]
    return [
        f"{name}: {first.get(name, 'unknown')}, {second.get(name, 'unknown')}"
        for name in names
        if first.get(name) != second.get(name)
    ]


def engines(first: dict[str, str], second: dict[str, str]) -> list[str]:
    """Return the two engines of results that were not sampled; empty if the same or unknown."""
    words = [fields.get("decoding", "") for fields in (first, second)]
    names = [word.partition("-")[0] for word in words]
    sampled = any("-sample-" in word for word in words)
    return names if all(names) and names[0] != names[1] and not sampled else []


def generation_key(
    recipe: Recipe, model: str, decoding: Decoding, data: str, adapter: Path | None
) -> GenerationKey:
    """Return the key of a model's predictions; `data` is the hash of the rows."""
    config = recipe.config
    template_keys = ("chat_template", "chat_template_jinja", "special_tokens", "tokenizer_config")
    prompt_parts = [recipe.summarization.instruction, *(config.get(name) for name in template_keys)]
    prompt_parts += filter(None, [config.get("chat_template_kwargs"), recipe.summarization.system])
    known_keys = (*template_keys, "chat_template_kwargs")
    prompt_parts += filter(None, [{  # the tokenizer's other keys; empty in most recipes
        key: value for key, value in config.items()
        if value and key not in known_keys and re.fullmatch(PROMPT, key)
    }])  # fmt: skip
    entry = {k: v for k, v in config["datasets"][0].items() if v and k not in LOCATION_KEYS}
    remote_code = {"trust_remote_code": True} if config.get("trust_remote_code") else {}
    prompt_parts += filter(None, [entry, remote_code, attention(config)])
    return GenerationKey(
        model=model,
        quantized=quantization(config),
        base_model=config["base_model"],
        base_model_hash=_model_hash(config["base_model"], config.get("revision_of_model")),
        adapter_hash=adapter_hash(adapter) if adapter else None,
        prompt_hash=_hash(prompt_parts),
        template_hash=template_hash(recipe, today=True),
        files_hash=_files_hash(config),
        decoding=decoding,
        data=data,
    )


def quantization(config: dict[str, Any]) -> str | None:
    """Return how the base model is loaded: nf4, int8, or None for the saved precision."""
    return "nf4" if config.get("load_in_4bit") else "int8" if config.get("load_in_8bit") else None


def attention(config: dict[str, Any]) -> str | None:
    """Return `eager` if training used it, else None for the model's default."""
    eager = config.get("attn_implementation") == "eager" or config.get("eager_attention")
    return "eager" if eager else None


def adapter_hash(folder: Path) -> str:
    """Return the hash of an adapter's weights and config."""
    return _folder_hash(folder, "adapter_config.json")


def commit() -> str:
    """Return our repository's commit, `-dirty` if files differ; else the package's version.

    Never another repository's commit; besides, its git settings could start programs.
    """
    project = ROOT / "pyproject.toml"
    own = (ROOT / ".git").exists() and project.is_file()
    if own and 'name = "samsum-lora"' in project.read_text("utf-8"):
        git = ["git", f"--git-dir={ROOT / '.git'}", f"--work-tree={ROOT}"]
        git += ["-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}"]
        git += ["describe", "--always", "--dirty", "--exclude=*"]
        # set by git while it runs a hook of another repository
        env = {k: v for k, v in os.environ.items() if not re.match("GIT_(?!CONFIG)", k)}
        try:
            return subprocess.run(
                git, cwd=ROOT, env=env, capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return "unknown"
    try:
        return f"v{version('samsum-lora')}"
    except PackageNotFoundError:
        return "unknown"


def _decoding_word(decoding: Decoding) -> str:
    """Return `hf-bfloat16-greedy-128`, plus every setting that is not the default."""
    search = f"beam{decoding.num_beams}" if decoding.num_beams > 1 else "greedy"
    search = "sample" if decoding.do_sample else search
    words = [decoding.engine, decoding.dtype, search, decoding.max_new_tokens]
    named = {"engine", "dtype", "num_beams", "do_sample", "max_new_tokens", "batch_tokens"}
    changed = decoding.model_dump(exclude=named, exclude_defaults=True)
    return "-".join(map(str, [*words, *(f"{name}={value}" for name, value in changed.items())]))


def _model_hash(base_model: str, revision: str | None) -> str:
    """Return the hash of a local folder's weights and config; a Hub model's commit."""
    if Path(base_model).is_dir():
        return _folder_hash(Path(base_model), "config.json", "tokenizer.json")
    from transformers.utils import cached_file
    from transformers.utils.hub import extract_commit_hash

    try:
        file = cached_file(base_model, "config.json", revision=revision)
    except OSError:  # loading the model reports this, with the fix
        return "unknown"
    return extract_commit_hash(file, None) or "unknown"


def _folder_hash(folder: Path, *others: str) -> str:
    # transformers and peft read the older formats only if there are no safetensors
    files = sorted(folder.glob("*.safetensors")) or [
        file for suffix in ("bin", "pt", "gguf") for file in sorted(folder.glob(f"*.{suffix}"))
    ]
    named = (folder / name for name in weight_files(folder)[0])  # in an index; may be in subfolders
    files += [file for file in named if file not in files and file.is_file()]
    files += [folder / name for name in others if (folder / name).is_file()]
    return _hash_of(files)


def _files_hash(config: dict[str, Any]) -> str | None:
    """Hash the files that a loader may read and `_folder_hash` skips; None for a Hub model."""
    names = filter(None, [config["base_model"], config.get("tokenizer_config")])
    candidates = [
        file
        for name in names
        for pattern in ("*", "additional_chat_templates/*")
        for file in sorted(Path(name).glob(pattern))
        if file.is_file() and not NOT_READ.fullmatch(file.name)
    ]
    files = [file for file in candidates if file.suffix != ".safetensors"]
    return _hash_of(files) if files else None


def _hash_of(files: list[Path]) -> str:
    return _hash([[file.name, sha256_of(file)] for file in files])


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
