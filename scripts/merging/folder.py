"""The merged folder: made by Axolotl's own command, whole or not at all, and once per adapter.

`merge.json` in it says what it was made of, and the hash of each file.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_prep.errors import UserError, writing_to
from data_prep.prompt import PromptEncoder
from data_prep.recipe import Recipe
from data_prep.sources import sha256_of
from data_prep.training.checkpoints import free_name
from eval.signature import generation_key, quantization
from scripts.merging.publish import publish

RECORD = "merge.json"
PROOF = "merge_proof.json"
LOADED = (".safetensors", ".bin", ".json", ".jinja", ".model")  # what a model is read from
CHANGED = "files since the merge"  # the check of its files
WORDS = 2000  # of Axolotl's output, shown where it fails
DISK = ("No space left on device", "File too large", "Disk quota exceeded", "Read-only file system")


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
