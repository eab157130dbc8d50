"""Control tokens and think blocks that a serving program left in a summary.

ROUGE would count them as words: `<|im_end|>` is three. Use: `found(text)`, `stripped(text)`.
"""

import re

_TURN = r"<\|(?:im_start|start|start_header_id)\|>\s*(?:assistant|user|system)\b\s*"
# A template may have written the opening mark into the prompt, and the limit of tokens may have cut
# off the closing one. The last line is GPT-OSS's harmony format.
_NAMES = r"think(?:ing)?|thought|reason(?:ing)?|reflection"
THINK = re.compile(
    rf"<(?P<tag>{_NAMES})>.*?(?:</(?P=tag)>|\Z)|\A(?:(?!<(?:{_NAMES})>).)*?</(?:{_NAMES})>"
    r"|\[THINK\].*?(?:\[/THINK\]|\Z)|◁think▷.*?(?:◁/think▷|\Z)"
    r"|<\|channel\|>(?:analysis|commentary)<\|message\|>.*?(?:<\|end\|>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
CONTROL = re.compile(
    rf"{_TURN}(?:<\|end_header_id\|>)?|<\|channel\|>\s*final(?=<\|message\|>)"
    r"|<\|[\w/:.-]{1,40}\|>|<｜[^｜<>\n]{1,40}｜>"
    r"|</?s>|<(?:pad|bos|eos|unk|mask|end_of_utterance|start_of_turn|end_of_turn)>"
    r"|\[/?INST\]|<</?SYS>>|\[(?:PAD|CLS|SEP|UNK|BOS|EOS)\]"
)


def found(text: str) -> str:
    """The first think block's mark or control token of a text; "" where there is none."""
    match = THINK.search(text) or CONTROL.search(text)
    mark = match and re.search(r"[<\[◁][^<>\[\]▷]*[>\]▷]", match[0])
    return mark[0] if mark else ""


def stripped(text: str) -> str:
    """The text without them; a text that has none stays as it is."""
    if not found(text):
        return text
    return CONTROL.sub("", THINK.sub("", text)).strip()
