"""Prove a merge: compare the merged folder with base weights plus adapter, tensor by tensor.

Each matrix that the adapter changes must equal base + change within a rounding step, every other
tensor must equal the base model's, and no tensor may be missing or added. To score the merged
model, run `python -m eval.run RECIPE --models base,tuned,merged`.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ValidationError
from safetensors import safe_open

from data_prep.errors import UserError, atomic_file, reading
from data_prep.hub import model_arguments
from data_prep.prompt import Example, PromptEncoder
from data_prep.recipe import Recipe
from data_prep.sources import Sealed, sha256_of
from eval.adapter import ADAPTER, listed
from eval.results import environment
from eval.signature import commit, generation_key, quantization

if TYPE_CHECKING:
    import torch

RECORD = "merge.json"
PROOF = "merge_proof.json"
LOADED = (".safetensors", ".bin", ".json", ".jinja", ".model")  # files that a model is loaded from
BLOCK_SIZE = 1 << 24  # weights compared at a time: whole matrices of a 7B model took 7 GB more
STEPS = 1.0  # rounding is off by up to half a step, on both sides
# The share of a matrix's stored change that does not come from the adapter: 1 if the adapter was
# left out, which in bf16 may be within a rounding step everywhere. A correct merge may have weights
# rounded the other way, if the adapter is stored in bf16 too.
OTHER_CHANGE = 0.25


class Record(BaseModel):
    """`merge.json`: what was merged, and the SHA-256 of the files written."""

    made_of: dict[str, str | None] = {}
    files: dict[str, str] = {}


class Check(BaseModel):
    """One line of the proof: what was compared, the result, and the bound."""

    what: str
    found: str
    bound: str
    holds: bool


class Proof(Sealed):
    """`merge_proof.json`; `exceeded` lists the checks that do not hold."""

    recipe: str
    good: bool
    exceeded: list[str]
    checks: list[Check]
    compared: str
    made_of: dict[str, str | None]
    environment: dict[str, str]
    commit: str


def matches_key(record: Record, key: dict[str, str | None]) -> bool:
    """Return whether a merge was made from `key`; older versions did not record `files`."""
    return bool(record.made_of) and record.made_of.items() <= key.items()


def read_merge_record(folder: Path) -> Record:
    """Read `merge.json` from a merged folder; empty if it is missing or damaged."""
    try:
        return Record.model_validate_json((folder / RECORD).read_bytes())
    except (OSError, ValidationError):
        return Record()


def merge_key(recipe: Recipe, adapter: Path) -> dict[str, str | None]:
    """Return everything that determines the merged weights and their tokenizer."""
    key = generation_key(recipe, "tuned", recipe.summarization.decoding, "", adapter)
    return {
        "adapter": key.adapter_hash,
        "base_model": key.base_model_hash,
        "prompt": key.prompt_hash,
        "files": key.files_hash,
        "quantized": quantization(recipe.config),
        "method": recipe.config.get("merge_method") or "memory_efficient",
        "axolotl": version("axolotl"),
    }


def changed_files(folder: Path) -> list[str]:
    """Return the names of files changed, missing or added since the merge."""
    files = read_merge_record(folder).files
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


def read_proved_merge(recipe: Recipe, adapter: Path) -> tuple[Path, Proof]:
    """Return `<output_dir>/merged` and its proof; raises UserError if no proof holds."""
    folder = recipe.output_dir / "merged"
    fix = f"run `python -m scripts.merge {recipe.path}`"
    if not matches_key(read_merge_record(folder), merge_key(recipe, adapter)):
        raise UserError(f"{folder}: holds no merge of this adapter; {fix}")
    if changed := changed_files(folder):
        raise UserError(f"{folder}: {listed(changed)} changed since the merge; {fix}")
    with reading(folder / PROOF, fix):
        proof = Proof.model_validate_json((folder / PROOF).read_bytes())
    proof.check(folder / PROOF, fix)
    if proof.made_of != read_merge_record(folder).made_of:
        raise UserError(f"{folder / PROOF}: is the proof of another merge; {fix}")
    if not proof.good:
        raise UserError(
            f"{folder / PROOF}: says that checks failed ({'; '.join(proof.exceeded)}); "
            "publish the adapter, without --merged"
        )
    return folder, proof


def prove(
    recipe: Recipe, adapter: Path, folder: Path, encoder: PromptEncoder, examples: list[Example]
) -> Proof:
    """Compare, and write the proof into the merged folder.

    `examples`: rows whose prompts the folder's own tokenizer must reproduce.
    """
    checks = check_prompts(recipe, folder, encoder, examples)
    checks += check_weights(recipe, adapter, folder)
    compared = "the base model's weights plus the adapter's change"
    if rounds_to_nf4(recipe):
        compared += (
            "; Axolotl's merge rounds every matrix of the base model to nf4 and back, as in "
            "training, and embeddings and head too, unlike training; so does this comparison"
        )
    exceeded = [check.what for check in checks if not check.holds]
    proof = Proof(
        recipe=recipe.name, good=not exceeded, exceeded=exceeded, checks=checks, compared=compared,
        made_of=read_merge_record(folder).made_of, environment=environment(), commit=commit(),
    ).sealed()  # fmt: skip
    with atomic_file(folder / PROOF) as file:
        file.write(proof.model_dump_json(indent=1) + "\n")
    return proof


def _check(what: str, found: str, bound: str, wrong: list[str]) -> Check:
    names = f" ({listed(wrong)})" if wrong else ""
    return Check(what=what, found=found + names, bound=bound, holds=not wrong)


# ---- prompt and end token ----


def end_token(encoder: PromptEncoder, example: Example) -> int:
    """Return the token that ends a summary in training."""
    return [label for label in encoder.training_ids(example)[1] if label != -100][-1]


def stop_tokens(folder: Path) -> list[int]:
    """Return the token ids at which generation stops by the settings in a model's folder."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        ids = json.loads(path.read_text("utf-8")).get("eos_token_id") if path.is_file() else None
        if ids is not None:
            return list(ids) if isinstance(ids, list) else [ids]
    return []


def check_prompts(
    recipe: Recipe, folder: Path, encoder: PromptEncoder, examples: list[Example]
) -> list[Check]:
    """Compare the prompts and the end token of a merged folder with those of training."""
    from transformers import AutoTokenizer

    merged_tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    template_kwargs = recipe.config.get("chat_template_kwargs") or {}
    different = [
        example.id
        for example in examples
        if encoder.prompt_ids(example)
        != merged_tokenizer.apply_chat_template(
            example.messages[:-1], add_generation_prompt=True, return_dict=True, **template_kwargs
        )["input_ids"]
    ]
    matching = f"{len(examples) - len(different)} of {len(examples)}"
    end, stops = end_token(encoder, examples[0]), stop_tokens(folder)
    return [
        _check("its own chat template gives training's ids", matching, "all", different),
        Check(what="stops at training's end token", found=f"{end} in {stops}",
              bound=f"{end} among them", holds=end in stops),
    ]  # fmt: skip


# ---- weights ----


def rounds_to_nf4(recipe: Recipe) -> bool:
    """Return whether Axolotl's merge uses the base weights as 4-bit training saw them."""
    legacy = recipe.config.get("merge_method") == "legacy"
    return quantization(recipe.config) == "nf4" and not legacy


def _model_with_adapter(recipe: Recipe, adapter: Path, size: int) -> Any:
    """Load the base model in its stored precision, with the adapter beside its weights.

    `size`: of its weights, in bytes; it is loaded on the GPU if half as much again is free there.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    on_gpu = torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > 1.5 * size
    model: Any = AutoModelForCausalLM.from_pretrained(
        recipe.config["base_model"],
        **model_arguments(recipe.config),
        dtype="auto",
        device_map="cuda:0" if on_gpu else "cpu",
    )
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    stored = [end.weight.detach().clone() for end in ends]
    if rounds_to_nf4(recipe):
        round_to_nf4(model, recipe.config)
    rounded = [end.weight.detach().clone() for end in ends]
    adapted = PeftModel.from_pretrained(model, str(adapter)).eval().get_base_model()
    # With `lm_head` in the targets, PEFT 0.20 also saves the head itself, as training saw it, and
    # has loaded it over the rounded one. A head that differs from the base model's stays.
    for end, before, after in zip(ends, stored, rounded, strict=True):
        if end.weight.shape == before.shape and torch.allclose(end.weight, before, rtol=2**-7):
            end.weight.data.copy_(after)
    return adapted


class Difference(NamedTuple):
    """The difference of a merged matrix from base + change: see STEPS and OTHER_CHANGE."""

    steps: float
    other_change: float


def check_weights(recipe: Recipe, adapter: Path, folder: Path) -> list[Check]:
    """Compare every tensor of a merged folder with the one from base model and adapter."""
    import torch
    from safetensors.torch import load_file

    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    model = _model_with_adapter(recipe, adapter, size)
    # PEFT loads the adapter in fp32, but the merge computes in the adapter's stored type
    eps = max(torch.finfo(w.dtype).eps for w in load_file(adapter / ADAPTER).values())
    layers = {name: m for name, m in model.named_modules() if hasattr(m, "get_delta_weight")}
    base_weights = {_merged_name(n): w for n, w in model.named_parameters() if ".lora_" not in n}
    dtype, changed, differing, wrong_shape = "", dict[str, Difference](), [], []
    names = set[str]()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file, torch.inference_mode():
            file_names = set(file.keys())
            for name in sorted(file_names & base_weights.keys()):
                base, merged = base_weights[name], file.get_tensor(name)
                layer = layers.get(name.removesuffix(".weight"))
                if base.shape != merged.shape:
                    wrong_shape.append(name)
                elif layer is not None:
                    dtype = str(merged.dtype).removeprefix("torch.")
                    changed[name] = _difference(base, layer, merged, eps)
                elif not torch.equal(base.to(merged.dtype).cpu(), merged):
                    differing.append(name)
            names |= file_names
    misplaced = [*sorted(base_weights.keys() ^ names), *wrong_shape]
    too_far = [name for name, d in changed.items() if not d.steps <= STEPS]  # NaN too
    correct = {name for name, d in changed.items() if d.other_change <= OTHER_CHANGE}
    incorrect = [f"{name}.weight" for name in layers if f"{name}.weight" not in correct]
    steps = f"{max((d.steps for d in changed.values()), default=0.0):.2f} steps"
    bound, correct_count = f"at most {STEPS:g} rounding step", f"{len(correct)} of {len(layers)}"
    return [
        _check(f"changed matrices ({dtype}): greatest difference", steps, bound, too_far),
        _check("matrices with the adapter's change", correct_count, "all", incorrect),
        _check("other tensors that differ", f"{len(differing)}", "0", differing),
        _check("tensors missing, added or of another shape", f"{len(misplaced)}", "0", misplaced),
    ]


def _merged_name(name: str) -> str:
    """Return a parameter's name without the parts that PEFT's wrappers add."""
    for part in (".base_layer", ".original_module", ".modules_to_save.default"):
        name = name.replace(part, "")
    return name


def _difference(base: "torch.Tensor", layer: Any, merged: "torch.Tensor", eps: float) -> Difference:
    import torch

    eps = max(eps, torch.finfo(merged.dtype).eps, torch.finfo(base.dtype).eps)
    if getattr(layer, "use_dora", {}).get("default"):
        # DoRA's change is not a product of two matrices: let PEFT merge, and take the difference.
        # In bf16 each of its four operations is rounded; 2.2 steps were measured.
        eps *= 4
        base = base.clone()
        layer.merge(adapter_names=["default"])
        change = layer.base_layer.weight - base
    else:
        change = layer.get_delta_weight("default")
    min_size = float(base.abs().mean(dtype=torch.float32))  # if base and change cancel
    blocks = [t.reshape(-1).to(base.device).split(BLOCK_SIZE) for t in (base, change, merged)]
    steps, error, total = [], 0.0, 0.0
    for base_block, change_block, merged_block in zip(*blocks, strict=True):
        expected = base_block.float() + change_block.float()
        size = (base_block.float().abs() + change_block.float().abs()).clamp_min(min_size)
        steps.append(((merged_block.float() - expected).abs() / (eps * size + 1e-30)).max())
        stored = expected.to(merged.dtype).float()
        error += float((merged_block.float() - stored).norm()) ** 2
        total += float((stored - base_block.float()).norm()) ** 2
    # if rounding removes the whole change, any other change is an error
    return Difference(float(torch.stack(steps).max()), (error / (total + 1e-30)) ** 0.5)


def round_to_nf4(model: Any, config: dict[str, Any]) -> None:
    """Round every matrix, embeddings too, to 4 bits and back, as Axolotl's merge does."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    settings = config.get("bnb_config_kwargs") or {}
    double_quant = settings.get("bnb_4bit_use_double_quant", not settings)
    for weight in model.parameters():  # tied weights appear once
        if weight.ndim < 2:
            continue
        flat = weight.detach().reshape(-1).float().contiguous()
        rounded, state = quantize_4bit(
            flat,
            quant_type="nf4",
            compress_statistics=bool(double_quant),
            **{k: v for k, v in settings.items() if k == "blocksize"},
        )
        dequantized = dequantize_4bit(rounded, state, quant_type="nf4")
        weight.data.copy_(dequantized.reshape(weight.shape).to(weight.dtype))
