"""Each way to get the prompt of a recipe wrong, with the words that must name it."""

from typing import Any


def jinja(
    start: str = "{{ bos_token }}", before: str = " ", end: str = "{{ eos_token }}"
) -> dict[str, str]:
    """A chat template that writes `start`, the user's turn, `before`, the summary and `end`."""
    template = (
        start + "{% for m in messages %}{% if m.role == 'user' %}[USER] {{ m.content }} [BOT]"
        "{% else %}" + before + "{{ m.content }}" + end + "{% endif %}{% endfor %}"
    )
    return {"chat_template": "jinja", "chat_template_jinja": template}


MISTRAL: dict[str, tuple[dict[str, Any], list[str]]] = {
    "template of a later Mistral": (
        {"chat_template": "mistral_v2v3"},
        ["mistral-common's own encoder (they part at token 1); set it to mistral_v1 (16 of 16"],
    ),
    "another EOS": (
        {"special_tokens": {"eos_token": "<unk>"}},
        ["mistral-common's own encoder", "leave its bos_token and eos_token alone"],
    ),
    "no BOS": (
        jinja(start=""),
        ["must start with one <s> and hold no other, and has 0 of them"],
    ),
    "doubled BOS": (
        jinja(start="{{ bos_token }}{{ bos_token }}"),
        ["must start with one <s> and hold no other, and has two of them side by side"],
    ),
    "a second BOS": (
        jinja(before="<s>"),
        ["must start with one <s>", "has 2 of them", "the loss leaves out '<s>'"],
    ),
    "words before the summary": (
        jinja(before=" So: "),
        ["the loss leaves out 'So:' before the turn's end"],
    ),
    "a template whose end is plain text here": (
        {"chat_template": "chatml"},
        ["must start with one <s>", "the loss covers", "not the summary"],
    ),
    "nothing trained": (
        {"datasets__roles_to_train": []},
        ["nothing of the summary is in the loss"],
    ),
}  # fmt: skip
SMOLLM2: dict[str, tuple[dict[str, Any], list[str]]] = {
    "EOS that ends no turn": (
        {"special_tokens": {"eos_token": "<|im_start|>"}},
        ["the turn's end is not in the loss, so that the model never learns to stop; name the"],
    ),
    "pad token as EOS": (
        {"special_tokens": {"eos_token": "<|endoftext|>"}},
        ["the turn's end is not in the loss"],
    ),
    "prompt in the loss": (
        {"train_on_inputs": True},
        ["tokens of the prompt are in the loss; leave train_on_inputs"],
    ),
    "user in the loss": (
        {"datasets__roles_to_train": ["user", "assistant"]},
        ["tokens of the prompt are in the loss"],
    ),
    "no EOS in the loss": (
        {"datasets__train_on_eos": "none"},
        ["the turn's end is not in the loss", "leave train_on_eos out"],
    ),
    "every EOS in the loss": (
        {"datasets__train_on_eos": "all"},
        ["tokens of the prompt are in the loss"],
    ),
    "generation prompt that training never sees": (
        {"chat_template": "llama3"},
        ["the prompt that evaluation sends is not the start of what training sees"],
    ),
    "template of Mistral": (
        {"chat_template": "mistral_v1"},
        ["chat_template mistral_v1 is that of Mistral-7B-Instruct v0.1 and v0.2, and"],
    ),
    "no row fits": (
        {"sequence_len": 16},
        ["sequence_len 16 is shorter than each row that was looked at; raise it"],
    ),
}  # fmt: skip
