"""Control tokens, think blocks and other turns that a serving program left in a summary.

ROUGE would count them as words: `<|im_end|>` is three. Use: `found(text)`, `stripped(text)`.
"""

import re

# A template may have written the opening mark into the prompt, and the limit of tokens may have cut
# off the closing one. The last lines: OpenThoughts, Gemma 4, and the harmony format of GPT-OSS.
_NAMES = r"(?:\w+:)?(?:think(?:ing)?|thought|reason(?:ing)?|reflection)"
THINK = re.compile(
    rf"<(?P<tag>{_NAMES})>.*?(?:</(?P=tag)>|\Z)|\A(?:(?!<(?:{_NAMES})>).)*?</(?:{_NAMES})>"
    r"|\[THINK\].*?(?:\[/THINK\]|\Z)|◁think▷.*?(?:◁/think▷|\Z)"
    r"|<\|begin_of_thought\|>.*?(?:<\|end_of_thought\|>|\Z)|<\|channel>thought.*?(?:<channel\|>|\Z)"
    r"|<\|channel\|>(?:analysis|commentary)<\|message\|>.*?(?:<\|end\|>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
# The prompt before the summary, or what the model went on to ask itself after it.
OTHERS_TURN = re.compile(
    r"(?P<mark><\|(?:im_start|start|start_header_id)\|>|<start_of_turn>|<\|turn>)\s*(?:user|system)\b"
    r".*?(?=(?P=mark)\s*(?:assistant|model)\b|\Z)"
    r"|<\|(?:user|system)\|>.*?(?=<\|assistant\|>|\Z)|\[INST\].*?(?:\[/INST\]|\Z)",
    re.DOTALL,
)
CONTROL = re.compile(
    r"<(?:\|(?:im_start|start|start_header_id)\||start_of_turn|\|turn)>\s*(?:assistant|model)\b\s*"
    r"(?:<\|end_header_id\|>)?|<\|channel\|>\s*final(?=<\|message\|>)"
    r"|<\|[\w/:.-]{1,40}\|?>|<[\w/:.-]{1,40}\|>|<｜[^｜<>\n]{1,40}｜>"
    r"|<0x[0-9A-F]{2}>|<extra_id_\d+>|</?s>|<(?:pad|bos|eos|unk|mask|end_of_utterance"
    r"|start_of_turn|end_of_turn|seed:eos|seed:bos)>"
    r"|\[/?INST\]|<</?SYS>>|\[(?:PAD|CLS|SEP|UNK|BOS|EOS)\]"
)


def found(text: str) -> str:
    """The first mark of any of them in a text; "" where there is none."""
    match = THINK.search(text) or CONTROL.search(text)
    mark = match and re.search(r"[<\[◁][^<>\[\]▷]*[>\]▷]", match[0])
    return mark[0] if mark else ""


def stripped(text: str) -> str:
    """The text without them; a text that has none stays as it is."""
    if not found(text):
        return text
    while (without := THINK.sub("", text)) != text:  # again, for blocks in blocks
        text = without
    return CONTROL.sub("", OTHERS_TURN.sub("", text)).strip()
