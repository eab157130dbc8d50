"""Merge a recipe's adapter into its base model with Axolotl's own command, and prove the weights.

    python -m scripts.merge recipes/smollm2_samsum.yml

Writes `<output_dir>/merged`, completely or not at all; a folder already merged from this adapter is
only proved again. The proof goes to `merge_proof.json` in it (scripts/merge_proof.py). Exit code 0
if all checks hold, 1 if one does not (`"good": false`), 2 for bad input.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from data_prep.errors import UserError, run_cli, writing_to
from data_prep.hub import empty_model
from data_prep.options import Options
from data_prep.prepare import check_prepared
from data_prep.prompt import PromptEncoder, read_examples
from data_prep.recipe import Recipe, load_recipe
from data_prep.sources import sha256_of
from eval.adapter import ADAPTER, find_adapter
from eval.signature import quantization
from scripts.leaks import TEXT, check_file
from scripts.merge_proof import (
    PROOF,
    RECORD,
    Proof,
    Record,
    changed_files,
    end_token,
    matches_key,
    merge_key,
    prove,
    read_merge_record,
    stop_tokens,
)
from training import run_record
from training.run_record import free_name

PROMPT_ROWS = 16  # validation rows whose prompts are compared
MAX_SHOWN = 2000  # characters of Axolotl's output to show if it fails
DISK = ("No space left on device", "File too large", "Disk quota exceeded", "Read-only file system")
VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json")  # tokens may look like paths


def main() -> None:
    """Merge, prove and print; exit with code 1 if a check does not hold."""
    parser = Options("scripts.merge", __doc__.splitlines()[0], "recipes/smollm2_samsum.yml")
    parser.add_argument("recipe", type=Path, help="recipe file")
    recipe = load_recipe(parser.parse_args().recipe)
    proof = merge(recipe)
    if not proof.good:
        print(
            f"error: {recipe.output_dir / 'merged'}: these checks failed: "
            f"{'; '.join(proof.exceeded)}; keep the adapter beside the base model, or merge with "
            "`merge_method: legacy`",
            file=sys.stderr,
        )
        sys.exit(1)


def merge(recipe: Recipe) -> Proof:
    """Merge if that is not done yet, prove and print.

    Raises UserError for bad input, and then leaves existing files untouched.
    """
    check_prepared(recipe)
    examples = read_examples(recipe.data_dir / "validation.jsonl")[:PROMPT_ROWS]
    adapter = find_adapter(recipe)
    check_fit(recipe, adapter)
    encoder = PromptEncoder(recipe)
    encoder.check_no_control_strings(examples)
    target = recipe.output_dir / "merged"
    with writing_to(recipe.output_dir):
        lock = run_record.lock(recipe.output_dir)
    with lock:
        key = merge_key(recipe, adapter)
        already_merged = matches_key(read_merge_record(target), key) and not changed_files(target)
        if not already_merged:
            with _scratch(recipe.output_dir) as scratch:
                new_folder = scratch / "merged"
                _run_axolotl(recipe, adapter, scratch)
                complete(new_folder, encoder, end_token(encoder, examples[0]))
                files = {path.name: sha256_of(path) for path in sorted(new_folder.iterdir())}
                record = Record(made_of=key, files=files)
                (new_folder / RECORD).write_text(record.model_dump_json(indent=2) + "\n", "utf-8")
                if target.exists():
                    aside = free_name(recipe.output_dir / "merged-set-aside")
                    target.rename(aside)
                    print(f"{target}: not the merge of this adapter; set aside as {aside.name}")
                new_folder.rename(target)
        print(f"{target}: {'already merged from this adapter' if already_merged else 'merged'}")
        with writing_to(target):
            proof = prove(recipe, adapter, target, encoder, examples)
    print(f"compared with {proof.compared}\n\n| what | found | bound | holds |\n|---|---:|---|---|")
    for check in proof.checks:
        holds = "yes" if check.holds else "NO"
        print(f"| {check.what} | {check.found} | {check.bound} | {holds} |")
    print(
        f"{target / PROOF}: this table; `python -m eval.run {recipe.path} --models "
        "base,tuned,merged` scores the merge"
    )
    return proof


@contextmanager
def _scratch(output_dir: Path) -> Iterator[Path]:
    """Create a folder on the target's disk; always removed, also one left by a killed merge."""
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
    base, target = Path(recipe.config["base_model"]), recipe.output_dir / "merged"
    if base.is_dir():  # the size of a Hub model is not known here
        weights = (p for p in base.iterdir() if p.suffix in (".safetensors", ".bin"))
        needed, free = sum(p.stat().st_size for p in weights), shutil.disk_usage(scratch).free
        if free < needed:
            raise UserError(
                f"{target}: needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; free "
                "some space or set another output_dir"
            )
    command = [sys.executable, "-m", "axolotl.cli.merge_lora", str(recipe.path)]
    command += ["--output_dir", str(scratch), "--lora_model_dir", str(adapter)]
    command += ["--tf32", "false"]  # on a GPU it would round the adapter's change to 10 bits
    if quantization(recipe.config) == "nf4" and not recipe.config.get("bnb_config_kwargs"):
        # training rounds twice (weights, then their scales); without this flag merging rounds once
        command += ["--bnb_config_kwargs", "{'bnb_4bit_use_double_quant': True}"]
    print(f"{target}: merging with axolotl.cli.merge_lora", file=sys.stderr)
    process = subprocess.run(command, capture_output=True, text=True)
    if not process.returncode and any((scratch / "merged").glob("*.safetensors")):
        return
    for reason in DISK:
        if reason in process.stderr:
            raise OSError(reason)  # _scratch adds the folder
    print(process.stdout[-MAX_SHOWN:], process.stderr[-MAX_SHOWN:], sep="\n", file=sys.stderr)
    raise UserError(
        f"{recipe.path}: Axolotl's merge failed; fix what the end of its output above says "
        "(existing files are untouched)"
    )


def complete(folder: Path, encoder: PromptEncoder, end: int) -> None:
    """Save the recipe's tokenizer into `folder`, and remove this machine's paths from its files.

    `end`: the token that ended a summary in training; generation from the folder stops there too.
    Raises UserError if a path or an access token remains.
    """
    encoder.tokenizer.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # the base model's card
    if end not in (stops := stop_tokens(folder)):
        path = folder / "generation_config.json"
        settings = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        settings["eos_token_id"] = [end, *stops]
        path.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    for path in sorted(folder.glob("*.json")):
        if path.name not in VOCABULARIES and not path.name.endswith(".index.json"):
            before = json.loads(path.read_text("utf-8"))
            if (after := _without_paths(before)) != before:
                path.write_text(json.dumps(after, indent=2, ensure_ascii=False) + "\n", "utf-8")
    for path in sorted(folder.iterdir()):
        if path.suffix in (*TEXT, ".json", ".safetensors"):
            check_file(path)


def _without_paths(value: Any) -> Any:
    """Return the JSON value with each absolute path cut to its last part."""
    if isinstance(value, dict):
        return {key: _without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_paths(inner) for inner in value]
    if isinstance(value, str) and "\n" not in value and Path(value).is_absolute():
        return Path(value).name
    return value


def check_fit(recipe: Recipe, adapter: Path) -> None:
    """Raise UserError if the adapter cannot be merged into this base model.

    Axolotl's merge silently skips adapter weights that have no counterpart. Also, Axolotl 0.19
    merges wrongly if input and output embeddings are one matrix and the adapter changes one of
    them.
    """
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    from eval.hf_engine import adapted_tied_embeddings

    base_model, model = recipe.config["base_model"], empty_model(recipe)
    try:
        settings = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
        with safe_open(adapter / ADAPTER, framework="pt") as file:
            names = file.keys()
            saved = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        if settings.get("peft_type") != "LORA":
            raise ValueError(f"it is {settings.get('peft_type')}, and only LORA can be merged")
        with torch.device("meta"):
            adapted = adapted_tied_embeddings(model, saved)
            model = get_peft_model(model, LoraConfig.from_pretrained(str(adapter)))
        expected = {k: tuple(v.shape) for k, v in get_peft_model_state_dict(model).items()}
        if saved != expected:
            mismatched = sorted(key for key, _ in saved.items() ^ expected.items())
            raise ValueError(f"{mismatched[0]} has no counterpart of the same shape")
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{adapter}: this adapter does not fit {base_model} ({reason}); train it again or set "
            "`output_dir`"
        ) from error
    if adapted:
        raise UserError(
            f"{adapter}: changes {' and '.join(adapted)}, but input and output embeddings of "
            f"{base_model} are one matrix, so a merge would change both; keep the adapter beside "
            "the base model"
        )


if __name__ == "__main__":
    run_cli(main)
