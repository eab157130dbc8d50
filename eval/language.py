"""Words, stems and sentences of any language, as ROUGE counts them; and control tokens in texts.

Use: `scoring = resolve(Rouge(), "de", references)`, then `scoring.words(text)`.
Two tokenizers: `english` is rouge_score's (runs of a-z and 0-9), which the literature on English
uses; `unicode` finds words in every script, and takes single characters in scripts without spaces
between words. Sentences are split by sentencex (Wikimedia; 300 languages).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any
from unicodedata import normalize

import regex

from data_prep.settings import Rouge

# With more than this share of letters outside a-z, `auto` drops the English tokenizer: SAMSum's
# references have 0.006 %, German has about 1.7 %, French 3.5 %, Polish 7 %.
FOREIGN = 0.01
MAX_STRAY = 3  # this many are always allowed: they may come from one José
IGNORED = 0.1  # share of letters that a tokenizer may ignore without a warning
# Snowball's stemmers by ISO 639-1 code; it has none for other languages
SNOWBALL = {
    "ar": "arabic", "ca": "catalan", "cs": "czech", "da": "danish", "de": "german", "el": "greek",
    "eo": "esperanto", "es": "spanish", "et": "estonian", "eu": "basque", "fa": "persian",
    "fi": "finnish", "fr": "french", "ga": "irish", "hi": "hindi", "hu": "hungarian",
    "hy": "armenian", "id": "indonesian", "it": "italian", "lt": "lithuanian", "nb": "norwegian",
    "ne": "nepali", "nl": "dutch", "no": "norwegian", "pl": "polish", "pt": "portuguese",
    "ro": "romanian", "ru": "russian", "sr": "serbian", "sv": "swedish", "ta": "tamil",
    "tr": "turkish", "yi": "yiddish",
}  # fmt: skip
SCRIPTS_WITHOUT_BLANKS = ("Han", "Hira", "Kana", "Bopo", "Thai", "Laoo", "Khmr", "Mymr", "Tibt")
_UNSPACED = "".join(rf"\p{{scx={script}}}" for script in SCRIPTS_WITHOUT_BLANKS)
# A vowel sign or an accent belongs to the letter before it, and a joiner (Persian) to its word.
_TOKEN = regex.compile(
    rf"[[\p{{L}}\p{{N}}]&&[{_UNSPACED}]]\p{{M}}*|[[\p{{L}}\p{{N}}]--[{_UNSPACED}]]"
    rf"(?:[[\p{{L}}\p{{M}}\p{{N}}]--[{_UNSPACED}]]|[\u200c\u200d])*",
    regex.V1,
)
# Words as a reader counts them: runs between spaces, and each character of those scripts.
_WORD = regex.compile(
    rf"[[\p{{L}}\p{{N}}]&&[{_UNSPACED}]]\p{{M}}*|[\S--[[\p{{L}}\p{{N}}]&&[{_UNSPACED}]]]+", regex.V1
)
_BLANK = regex.compile(r"[^\S\n]")
_LETTER = regex.compile(r"\p{L}|[\p{N}--[0-9]]", regex.V1)
_LATIN = regex.compile(r"\p{Latin}")


@dataclass(frozen=True)
class Scoring:
    """ROUGE settings with every `auto` resolved; also serves rouge_score as its tokenizer."""

    tokenizer: str = "english"
    stemmer: str = "porter"
    lsum: str = "sentences"
    language: str = "en"

    def tokenize(self, text: str) -> list[str]:
        """Return the stems of a text's words, which ROUGE compares."""
        words = self.words(text)
        if self.stemmer == "none":
            return words
        if self.stemmer == "porter":  # like rouge_score, which does not stem short words
            stem = _porter().stem
            return [stem(word) if len(word) > 3 else word for word in words]
        return _snowball(self.stemmer).stemWords(words)

    def words(self, text: str) -> list[str]:
        """Return the words of a text in lower case, not stemmed."""
        if self.tokenizer == "english":
            from rouge_score.tokenize import tokenize

            return tokenize(text, None)
        if self.language in ("tr", "az"):  # in these, I is the capital of ı, and İ that of i
            text = text.replace("İ", "i").replace("I", "ı")
        return _TOKEN.findall(normalize("NFKC", text).lower())

    def split(self, text: str) -> str:
        """Return the text with a line break after each sentence, as rougeLsum expects."""
        if self.lsum == "lines":
            return text
        from sentencex import segment

        # sentencex 1.0.32 panics on "A" + U+2001 + "."; ROUGE treats all white space alike anyway
        return "\n".join(segment(self.language, _BLANK.sub(" ", text)))

    def ignored(self, texts: Iterable[str]) -> float:
        """Return the share (0 to 1) of the texts' letters that the tokenizer ignores."""
        if self.tokenizer == "unicode":
            return 0.0
        foreign, letters = count_letters(texts)
        return foreign / max(1, letters)

    def fields(self) -> dict[str, str]:
        """Return these settings as fields of the signature."""
        stem, lsum = self.stemmer, self.lsum
        if stem not in ("none", "porter"):
            stem += f"-snowball-{version('snowballstemmer')}"
        if lsum == "sentences":
            lsum += f"-{self.language}-sentencex-{version('sentencex')}"
        words = "a-z0-9" if self.tokenizer == "english" else "unicode"
        return {"stem": stem, "tok": words, "lsum": lsum}


@cache
def _porter() -> Any:
    from nltk.stem.porter import PorterStemmer  # the one that rouge_score uses

    return PorterStemmer()


@cache
def _snowball(name: str) -> Any:
    from snowballstemmer import stemmer

    return stemmer(name)


def resolve(settings: Rouge, language: str, references: Sequence[Sequence[str]]) -> Scoring:
    """Return the settings for these references (one list per example), with no `auto` left.

    English references get exactly the scores that rouge_score gives them.
    """
    all_texts = [text for texts in references for text in texts]
    foreign, letters = count_letters(all_texts)
    latin = sum(len(_LATIN.findall(text)) for text in all_texts) >= (1 - IGNORED) * letters
    english = language == "en" and latin and foreign <= max(FOREIGN * letters, MAX_STRAY)
    tokenizer, stemmer = settings.tokenizer, settings.stemmer
    if tokenizer == "auto":
        snowball = settings.stemmer not in ("auto", "none", "porter")
        tokenizer = "english" if english and not snowball else "unicode"
    if stemmer == "auto":
        stemmer = SNOWBALL.get(language, "none")
        if english or tokenizer == "english":
            stemmer = "porter"
    if not regex.fullmatch("[a-z]{2,3}", language):
        raise ValueError(f"language {language!r}: use an ISO 639 code, such as en, de or zh")
    return Scoring(tokenizer, stemmer, settings.lsum, language)


def word_ends(text: str) -> list[int]:
    """Return where each word of a text ends; words are separated by spaces.

    Each character of Chinese, Japanese, Thai and so on is a word. For other scripts, the number of
    words equals that of `text.split()`.
    """
    return [match.end() for match in _WORD.finditer(text)]


def count_letters(texts: Iterable[str]) -> tuple[int, int]:
    """Return how many of the texts' letters are not a-z, and how many letters there are."""
    letters = _LETTER.findall("".join(texts).lower())
    return sum(not "a" <= letter <= "z" for letter in letters), len(letters)


def warnings(scoring: Scoring, texts: dict[str, Sequence[str]]) -> list[str]:
    """Return a note on each kind of text if the tokenizer ignores over a tenth of its letters."""
    if scoring.tokenizer == "unicode" and scoring.language == "en":
        return [
            f"words of every script are compared (stemmer: {scoring.stemmer}); name the language "
            "for its stemmer and its sentences: `summarization.language` (--language)"
        ]
    return [
        f"{share:.0%} of the letters of {name} are ignored: `tokenizer: english` reads a-z alone; "
        "`summarization.rouge.tokenizer: unicode` (--tokenizer unicode) reads every script"
        for name, group in texts.items()
        if (share := scoring.ignored(group)) > IGNORED
    ]


# ---- control tokens, think blocks and other turns that an inference server left in a summary ----
# ROUGE would count them as words: `<|im_end|>` is three.

_THINK = r"(?:\w+:)?(?:think(?:ing)?|thought|reason(?:ing)?|reflection|scratchpad|analysis)"
# Opening and closing marks of text that is not part of a summary: of DeepSeek, Qwen and many
# others, then Magistral, Kimi, OpenThoughts, Cohere, Apertus, Gemma 4, GPT-OSS, and of tool calls.
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
# The prompt before the summary, or a new user turn that the model wrote after it.
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


def markup_in(text: str) -> str:
    """Return the first of these marks in a text; "" if there is none."""
    matches = [pattern.search(text) for pattern in (*BLOCKS, CONTROL)]
    first_match = min(filter(None, matches), key=re.Match.start, default=None)
    mark = first_match and re.search(r"[<\[◁][^<>\[\]▷]*[>\]▷]|<\|\w+", first_match[0])
    return mark[0] if mark else ""


def without_markup(text: str) -> str:
    """Return the text without control tokens, think blocks and other turns, if it has any.

    Nested blocks are removed whole. If a template wrote the opening mark into the prompt, all text
    before the closing mark is removed; if the token limit cut off the closing mark, all text after
    the opening one.
    """
    if not markup_in(text):
        return text
    for block in BLOCKS:
        text = _without(block, text)
    text = CONTROL.sub(" ", OTHERS_TURN.sub(" ", text))
    return re.sub(r" {2,}", " ", text).strip()


def _without(block: re.Pattern[str], text: str) -> str:
    """Return the text without one kind of block, in one pass."""
    parts, opened, end = [], list[int](), 0  # opened: number of parts before each open block
    for mark in block.finditer(text):
        parts.append(text[end : mark.start()])
        end = mark.end()
        if mark["opening"]:
            opened.append(len(parts))
        else:  # if its opening mark was in the prompt, drop everything before it
            del parts[opened.pop() if opened else 0 :]
            parts.append(" ")
    return "".join(parts[: opened[0]] if opened else [*parts, text[end:]])
