"""The sizes of a recipe's model with its adapter, from `config.json` alone: no weights are read."""

from dataclasses import dataclass
from typing import Any

from data_prep.errors import UserError
from data_prep.recipe import Recipe
from data_prep.unavailable import model_unavailable

ATTENTION_OUTPUT = "o_proj"  # what it reads, attention keeps anyway


@dataclass(frozen=True)
class Shape:
    """A decoder of Llama's kind. Counts are of the whole model, not of a layer."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_heads: int
    width: int  # of a head
    vocabulary: int
    parameters: int  # all of the base model
    linear: int  # those in linear layers, the output layer aside: what quantisation shrinks
    adapter: int  # those that are trained
    inputs: int  # widths of what the adapted layers read, summed
    shared_inputs: int  # the same, once where layers of a block read one tensor
    ranks: int  # of the adapted layers, summed

    @property
    def multiplied(self) -> int:
        """Weights that every token is multiplied with: those of linear and output layers."""
        return self.linear + self.hidden * self.vocabulary


def shape_of(recipe: Recipe) -> Shape | None:
    """Build the model and its adapter without memory (on PyTorch's `meta` device), and count.

    None for another kind of model, or of training than LoRA. Raises UserError where the model's
    configuration cannot be had.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = recipe.config
    try:
        sizes = AutoConfig.from_pretrained(
            config["base_model"],
            revision=config.get("revision_of_model") or "main",
            trust_remote_code=bool(config.get("trust_remote_code")),
        )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(sizes)
    except (OSError, ValueError) as error:
        raise UserError(model_unavailable(recipe, error)) from error
    try:
        known = dict(
            layers=sizes.num_hidden_layers,
            hidden=sizes.hidden_size,
            intermediate=sizes.intermediate_size,
            heads=sizes.num_attention_heads,
            key_heads=sizes.num_key_value_heads,
            width=getattr(sizes, "head_dim", None)
            or sizes.hidden_size // sizes.num_attention_heads,
            vocabulary=sizes.vocab_size,
        )
    except AttributeError:
        return None
    if config.get("adapter") not in ("lora", "qlora"):
        return None
    head = model.get_output_embeddings()
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    return Shape(
        **known,
        parameters=sum(p.numel() for p in model.parameters()),
        linear=sum(m.weight.numel() for m in linears),
        **_adapter(config, model),
    )


def _adapter(config: dict[str, Any], model: Any) -> dict[str, int]:
    """Counts of what PEFT adds to the model, with the layers that Axolotl would choose."""
    import torch
    from axolotl.loaders.adapter import find_all_linear_names
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    targets = config.get("lora_target_modules") or []
    if config.get("lora_target_linear"):
        targets = [*([targets] if isinstance(targets, str) else targets),
                   *find_all_linear_names(model)]  # fmt: skip
    settings = LoraConfig(
        r=config["lora_r"],
        target_modules=targets,
        layers_to_transform=config.get("peft_layers_to_transform"),
        rank_pattern=config.get("lora_rank_pattern") or {},
        modules_to_save=config.get("lora_modules_to_save"),
        task_type="CAUSAL_LM",
    )
    with torch.device("meta"):
        adapted = get_peft_model(model, settings)
    layers: dict[str, Any] = {
        name: module for name, module in adapted.named_modules() if isinstance(module, LoraLayer)
    }
    shared = {
        (name.rpartition(".")[0], layer.in_features)
        for name, layer in layers.items()
        if not name.endswith(ATTENTION_OUTPUT)
    }
    return {
        "adapter": sum(p.numel() for p in adapted.parameters() if p.requires_grad),
        "inputs": sum(layer.in_features for layer in layers.values()),
        "shared_inputs": sum(width for _, width in shared),
        "ranks": sum(rank for layer in layers.values() for rank in layer.r.values()),
    }
