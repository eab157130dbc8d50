"""Control tokens, think blocks and other turns that a serving program left in a summary.

ROUGE would count them as words: `<|im_end|>` is three. Use: `found(text)`, `stripped(text)`.
"""

import re

_THINK = r"(?:\w+:)?(?:think(?:ing)?|thought|reason(?:ing)?|reflection|scratchpad|analysis)"
# Opening and closing mark of what is no part of a summary: of DeepSeek, Qwen and many others, then
# Magistral, Kimi, OpenThoughts, Cohere, Apertus, Gemma 4, GPT-OSS, and of calls of tools.
BLOCKS = [
    re.compile(rf"(?P<opening>{opening})|{closing}", re.IGNORECASE)
    for opening, closing in (
        (rf"<{_THINK}\s*>", rf"</{_THINK}\s*>"),
        (r"\[(?:BEGIN_)?THINK\]", r"\[(?:/|END_)THINK\]"),
        (r"◁think▷", r"◁/think▷"),
        (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
        (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),
        (r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),
        (r"<\|think(?:ing)?\|>", r"<\|/think(?:ing)?\|>"),
        (r"<\|channel>thought", r"<channel\|>"),
        (r"<\|channel\|>(?:analysis|commentary)<\|message\|>", r"<\|end\|>(?=<\|start\|>)"),
        (r"<tool_call>", r"</tool_call>"),
    )
]
_TURN = r"(?:<\|(?:im_start|start|start_header_id|start_of_role)\|>|<start_of_turn>|<\|turn>)"
# The prompt before the summary, or what the model went on to ask itself after it.
OTHERS_TURN = re.compile(
    rf"{_TURN}\s*(?:user|system)\b.*?(?={_TURN}\s*(?:assistant|model)\b|\Z)"
    r"|<\|(?:user|system)\|>.*?(?=<\|assistant\|>|\Z)|\[INST\].*?(?:\[/INST\]|\Z)",
    re.DOTALL,
)
CONTROL = re.compile(
    rf"{_TURN}\s*(?:assistant|model)\b\s*(?:<\|end_(?:header_id|of_role)\|>)?"
    r"|<\|channel\|>\s*final(?=<\|message\|>)|<\|\w{2,}\Z"
    r"|<\|[\w/:.-]{1,40}\|?>|<[\w/:.-]{1,40}\|>|<｜[^｜<>\n]{1,40}｜>|\[\|[^|\[\]\n]{1,40}\|\]"
    r"|<0x[0-9A-F]{2}>|<(?:extra_id_|unused|TOKENS_UNUSED_)\d+>|\[UNUSED_TOKEN_\d+\]"
    r"|<(?:pad|bos|eos|unk|mask|sep|cls|sop|eop|eoa|eoh|eod|end_of_utterance|start_of_turn"
    rf"|end_of_turn|seed:eos|seed:bos)>|</?(?:s|answer|summary|output|response|{_THINK})\s*/?>"
    r"|\[/?(?:INST|SYSTEM_PROMPT)\]|<</?SYS>>|\[(?:PAD|CLS|SEP|UNK|BOS|EOS|g?MASK)\]",
    re.IGNORECASE,
)


def found(text: str) -> str:
    """The first mark of any of them in a text; "" where there is none."""
    marks = [pattern.search(text) for pattern in (*BLOCKS, CONTROL)]
    first = min(filter(None, marks), key=re.Match.start, default=None)
    mark = first and re.search(r"[<\[◁][^<>\[\]▷]*[>\]▷]|<\|\w+", first[0])
    return mark[0] if mark else ""


def stripped(text: str) -> str:
    """The text without them; a text that has none stays as it is.

    Of blocks within blocks all goes. A template may have written the opening mark into the prompt,
    and the limit of tokens may have cut off the closing one: then all before, or after, goes.
    """
    if not found(text):
        return text
    for block in BLOCKS:
        text = _without(block, text)
    text = CONTROL.sub(" ", OTHERS_TURN.sub(" ", text))
    return re.sub(r" {2,}", " ", text).strip()


def _without(block: re.Pattern[str], text: str) -> str:
    """The text without one kind of block, in one pass."""
    kept, opened, done = [], list[int](), 0  # opened: how many parts were kept before each block
    for mark in block.finditer(text):
        kept.append(text[done : mark.start()])
        done = mark.end()
        if mark["opening"]:
            opened.append(len(kept))
        else:  # where its opening was in the prompt, all before it goes
            del kept[opened.pop() if opened else 0 :]
            kept.append(" ")
    return "".join(kept[: opened[0]] if opened else [*kept, text[done:]])
