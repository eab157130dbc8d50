"""Mistral's real v1 tokenizer as a transformers folder, and a small random Mistral beside it.

mistral-common carries the tokenizer of Mistral-7B-Instruct-v0.2, so no hub is needed. The model has
Mistral's architecture and random weights: it proves that a recipe runs, not that it is good.
"""

from pathlib import Path

import mistral_common
import sentencepiece
import torch
from transformers import LlamaTokenizer, MistralConfig, MistralForCausalLM
from transformers.convert_slow_tokenizer import generate_merges

SENTENCEPIECE = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"


def save_mistral(folder: Path) -> None:
    """Save tokenizer and a Mistral of width 64 into `folder`."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(SENTENCEPIECE))
    vocab = {pieces.id_to_piece(i): i for i in range(pieces.vocab_size())}
    scores = {pieces.id_to_piece(i): pieces.get_score(i) for i in range(pieces.vocab_size())}
    tokenizer = LlamaTokenizer(
        vocab=vocab, merges=generate_merges(vocab, scores), legacy=False, add_bos_token=True
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(vocab),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=None,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        max_position_embeddings=32768,
        bos_token_id=1,
        eos_token_id=2,
    )
    MistralForCausalLM(config).save_pretrained(folder)
