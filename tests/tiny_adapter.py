"""A LoRA adapter with random weights, made without training."""

from pathlib import Path


def save_adapter(base_model: Path, folder: Path, std: float = 0.5) -> None:
    """Save an adapter that changes the output of the model in `base_model`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base_model), config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # zero at the start: no change
            torch.nn.init.normal_(weight, std=std)
    model.peft_config["default"].base_model_name_or_path = str(base_model)
    model.save_pretrained(str(folder))
