"""The proof of a merge: the merged folder against base weights plus adapter, tensor by tensor.

What the merged model generates is measured by `python -m eval.run RECIPE --models
base,tuned,merged`.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open

from data_prep.errors import UserError, whole_file
from data_prep.prompt import Example, PromptEncoder
from data_prep.recipe import Recipe
from data_prep.sources import sha256_of
from eval.results import environment
from eval.signature import commit, generation_key, quantization

RECORD = "merge.json"
PROOF = "merge_proof.json"
LOADED = (".safetensors", ".bin", ".json", ".jinja", ".model")  # what a model is read from
CHANGED = "files since the merge"  # the check of its files
if TYPE_CHECKING:
    import torch

BLOCK = 1 << 24  # weights that are compared at a time: whole matrices of a 7B model took 7 GB more
STEPS = 1.0  # a stored weight is rounded, by half a step; a whole one allows for both sides


class Record(BaseModel):
    """`merge.json`: what was merged, and the SHA-256 of the files that this made."""

    made_of: dict[str, str | None] = {}
    files: dict[str, str] = {}


class Check(BaseModel):
    """One line of the proof: what was compared, what was found, what it had to be."""

    what: str
    found: str
    bound: str
    holds: bool


class Proof(BaseModel):
    """`merge_proof.json`; `exceeded` names the checks that do not hold."""

    recipe: str = ""
    good: bool
    exceeded: list[str]
    checks: list[Check] = []
    compared: str = ""
    made_of: dict[str, str | None] = {}
    environment: dict[str, str] = {}
    commit: str = ""


def recorded(folder: Path) -> Record:
    """What `merge.json` in a merged folder says; nothing where it is missing or damaged."""
    try:
        return Record.model_validate_json((folder / RECORD).read_bytes())
    except (OSError, ValidationError):
        return Record()


def made_of(recipe: Recipe, adapter: Path) -> dict[str, str | None]:
    """All that decides the merged weights and their tokenizer."""
    key = generation_key(recipe, "tuned", recipe.summarization.decoding, "", adapter)
    return {
        "adapter": key["adapter_hash"],
        "base_model": key["base_model_hash"],
        "prompt": key["prompt_hash"],
        "quantized": quantization(recipe.config),
        "method": recipe.config.get("merge_method") or "memory_efficient",
        "axolotl": version("axolotl"),
    }


def changed_files(folder: Path) -> list[str]:
    """Names of files that are not as the merge wrote them: changed, missing or added."""
    files = recorded(folder).files
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


def proved(recipe: Recipe, adapter: Path) -> tuple[Path, Proof]:
    """`<output_dir>/merged` and its proof; raises UserError where it has no good one."""
    folder = recipe.output_dir / "merged"
    again = f"run `python -m scripts.merge {recipe.path}`"
    if recorded(folder).made_of != made_of(recipe, adapter):
        raise UserError(f"{folder}: holds no merge of this adapter; {again}")
    if changed := changed_files(folder):
        raise UserError(
            f"{folder}: {', '.join(changed[:3])} changed since the merge; remove the folder, and "
            f"{again}"
        )
    try:
        proof = Proof.model_validate_json((folder / PROOF).read_bytes())
    except (OSError, ValidationError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{folder / PROOF}: missing or damaged ({reason}); {again}") from error
    if not proof.good:
        raise UserError(
            f"{folder / PROOF}: says that the merge is not good ({'; '.join(proof.exceeded)}); "
            "publish the adapter, without --merged"
        )
    return folder, proof


def prove(
    recipe: Recipe, adapter: Path, folder: Path, encoder: PromptEncoder, examples: list[Example]
) -> Proof:
    """Compare, and write the proof into the merged folder.

    `examples`: rows whose prompts the folder's own tokenizer must give. Raises UserError where a
    changed folder cannot be read, and OSError where it cannot be written.
    """
    changed = changed_files(folder)
    if changed:  # an earlier proof was of other files
        _write(folder, Proof(good=False, exceeded=[CHANGED]))
    try:
        checks = [
            Check(
                what=CHANGED,
                found=", ".join(changed) or "the same",
                bound="the same",
                holds=not changed,
            ),
            *_check_prompts(recipe, folder, encoder, examples),
            *_check_weights(_adapted(recipe, adapter), folder),
        ]
    except (OSError, SafetensorError, ValueError) as error:
        if not changed:
            raise
        raise UserError(
            f"{folder}: {', '.join(changed)} changed since the merge, and cannot be read; remove "
            "the folder and run the same command again"
        ) from error
    compared = "the base model's weights plus the adapter's change"
    if rounds_to_nf4(recipe):
        compared += (
            "; Axolotl's merge rounds every matrix of the base model to nf4 and back, as training "
            "saw them, and embeddings and head too, which training did not: so does this"
        )
    proof = Proof(
        recipe=recipe.name,
        good=all(check.holds for check in checks),
        exceeded=[check.what for check in checks if not check.holds],
        checks=checks,
        compared=compared,
        made_of=recorded(folder).made_of,
        environment=environment(),
        commit=commit(),
    )
    _write(folder, proof)
    return proof


def _write(folder: Path, proof: Proof) -> None:
    with whole_file(folder / PROOF) as file:
        file.write(proof.model_dump_json(indent=1) + "\n")


# ---- prompt and end token ----


def end_token(encoder: PromptEncoder, example: Example) -> int:
    """The token that ends a summary in training."""
    return [label for label in encoder.training_ids(example)[1] if label != -100][-1]


def stop_tokens(folder: Path) -> list[int]:
    """Token ids at which generation from a model's folder stops by its own settings."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        ids = json.loads(path.read_text("utf-8")).get("eos_token_id") if path.is_file() else None
        if ids is not None:
            return list(ids) if isinstance(ids, list) else [ids]
    return []


def _check_prompts(
    recipe: Recipe, folder: Path, encoder: PromptEncoder, examples: list[Example]
) -> list[Check]:
    from transformers import AutoTokenizer

    own: Any = AutoTokenizer.from_pretrained(folder)
    more = recipe.config.get("chat_template_kwargs") or {}
    same = sum(
        own.apply_chat_template(
            example.messages[:1], add_generation_prompt=True, return_dict=True, **more
        )["input_ids"]
        == encoder.prompt_ids(example)
        for example in examples
    )
    end, stops = end_token(encoder, examples[0]), stop_tokens(folder)
    return [
        Check(
            what="its own chat template gives training's ids",
            found=f"{same} of {len(examples)}",
            bound="all",
            holds=same == len(examples),
        ),
        Check(
            what="stops at training's end token",
            found=f"{end} in {stops}",
            bound=f"{end} among them",
            holds=end in stops,
        ),
    ]


# ---- weights ----


def rounds_to_nf4(recipe: Recipe) -> bool:
    """Whether Axolotl's merge takes the base weights as 4-bit training saw them."""
    legacy = recipe.config.get("merge_method") == "legacy"
    return quantization(recipe.config) == "nf4" and not legacy


def _adapted(recipe: Recipe, adapter: Path) -> Any:
    """The base model as it is stored, with the adapter beside its weights."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        recipe.config["base_model"],
        revision=recipe.config.get("revision_of_model"),
        dtype="auto",
        device_map="cuda:0" if torch.cuda.is_available() else "cpu",
    )
    if rounds_to_nf4(recipe):
        round_to_nf4(model, recipe.config)
    return PeftModel.from_pretrained(model, str(adapter)).eval().get_base_model()


def _check_weights(model: Any, folder: Path) -> list[Check]:
    """Compare `model`, the adapter beside its weights, with the merged folder's tensors."""
    import torch

    layers = {name: m for name, m in model.named_modules() if hasattr(m, "get_delta_weight")}
    plain = dict(model.named_parameters())
    missing = {_merged_name(name) for name in plain if ".lora_" not in name}
    steps, worst, changed, dtype = 0.0, "", 0, ""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            for name in names:
                merged = file.get_tensor(name)
                dtype = str(merged.dtype).removeprefix("torch.")
                layer = layers.get(name.removesuffix(".weight"))
                with torch.inference_mode():
                    apart = _steps_apart(merged, name, layer, plain)
                missing.discard(name)
                changed += layer is not None
                if not apart <= steps:  # NaN too
                    steps, worst = apart, name
    where = f" in {worst}" if not steps <= STEPS else ""
    return [
        Check(
            what=f"weights ({dtype}): greatest difference",
            found=f"{steps:.2f} steps{where}",
            bound=f"at most {STEPS:g} rounding step",
            holds=steps <= STEPS,
        ),
        Check(
            what="matrices with the adapter's change",
            found=f"{changed} of {len(layers)}",
            bound="all",
            holds=changed == len(layers),
        ),
        Check(
            what="tensors that are missing",
            found=", ".join(sorted(missing)[:3]) or "none",
            bound="none",
            holds=not missing,
        ),
    ]


def _merged_name(name: str) -> str:
    """The name of a parameter once PEFT's wrappers are gone."""
    for part in (".base_layer", ".original_module", ".modules_to_save.default"):
        name = name.replace(part, "")
    return name


def _steps_apart(
    merged: "torch.Tensor", name: str, layer: Any, plain: "dict[str, torch.Tensor]"
) -> float:
    """Rounding steps of |base| + |change| between a merged tensor and base + change."""
    import torch

    module, _, kind = name.rpartition(".")
    names = (name, f"{module}.base_layer.{kind}", f"{module}.modules_to_save.default.{kind}")
    found = [plain[one] for one in names if one in plain]
    if not found or found[-1].shape != merged.shape:
        return float("inf")
    base, change = found[-1], torch.zeros_like(found[-1])
    if layer is not None and getattr(layer, "use_dora", {}).get("default"):
        # DoRA's change is no product of two matrices: let PEFT merge, and take the difference
        base = base.clone()
        layer.merge(adapter_names=["default"])
        change = layer.base_layer.weight - base
    elif layer is not None:
        change = layer.get_delta_weight("default")
    eps = max(torch.finfo(merged.dtype).eps, torch.finfo(base.dtype).eps)
    blocks = [t.reshape(-1).to(base.device).split(BLOCK) for t in (base, change, merged)]
    sizes = [
        float((b.float().abs() + c.float().abs()).sum()) for b, c in zip(*blocks[:2], strict=True)
    ]
    least = sum(sizes) / base.numel()  # the tensor's mean, for weights where base and change cancel
    steps = []
    for of_base, of_change, of_merged in zip(*blocks, strict=True):
        apart = (of_merged.float() - (of_base.float() + of_change.float())).abs()
        size = of_base.float().abs() + of_change.float().abs()
        steps.append((apart / (eps * size.clamp_min(least) + 1e-30)).max())
    return float(torch.stack(steps).max())  # NaN where one is


def round_to_nf4(model: Any, config: dict[str, Any]) -> None:
    """Round weights to 4 bits and back, as Axolotl's merge does: every matrix, embeddings too."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    settings = config.get("bnb_config_kwargs") or {}
    twice = settings.get("bnb_4bit_use_double_quant", not settings)
    for weight in model.parameters():  # a tied one once
        if weight.ndim < 2:
            continue
        flat = weight.detach().reshape(-1).float().contiguous()
        rounded, state = quantize_4bit(
            flat,
            quant_type="nf4",
            compress_statistics=bool(twice),
            **{k: v for k, v in settings.items() if k == "blocksize"},
        )
        back = dequantize_4bit(rounded, state, quant_type="nf4")
        weight.data.copy_(back.reshape(weight.shape).to(weight.dtype))
