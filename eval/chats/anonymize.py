"""Names, numbers and addresses out of a chat: `Person 1`, `<phone>`, `<email>`.

What is masked are the names that the export itself knows: those who write, and those whom Telegram
and Slack list. A name that stands in the text alone cannot be told from another word.
"""

import re
from dataclasses import replace

from eval.chats.chat import Chat, Message, speakers_of

EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
PHONE = re.compile(r"(?<![\w/.,:-])(?:\+|00|\()?\d[\d ()/.-]{5,}\d(?![\w/])")
DATE = re.compile(r"\d{4}[-/.]\d\d?[-/.]\d\d?|\d\d?[-/.]\d\d?[-/.]\d{4}")
HANDLE = re.compile(r"(?<![\w@])@(?!Person\b|someone\b|here\b|channel\b|everyone\b|all\b)\w[\w.]*")
_TITLES = "dr mr mrs ms miss prof sir the and van von der den del della dos das los"
TITLES = frozenset(_TITLES.split())
# First names that are also words: as names only where they begin with a capital.
_WORDS = """
    will mark may june april august rose bill hope grace art max sue jack faith joy dawn page chase
    drew pat rob nick ray lily ruby sunny summer autumn amber ivy jade olive rich frank earnest
    gene guy dean wade grant miles skip chip don ken jay bob tom bo al an in so
"""
WORDS = frozenset(_WORDS.split())


def anonymize(chat: Chat, number: int) -> Chat:
    """The chat with its speakers as Person 1, Person 2 ..., in the text too; its name is a number.

    Others whom the export knows become `someone`.
    """
    mask = _Mask(chat)
    messages = [
        Message(m.time, mask.people.get(m.speaker, ""), mask(m.text)) for m in chat.messages
    ]
    return replace(chat, name=f"chat {number}" if chat.name else "", messages=messages)


class _Mask:
    """Replaces what names a person in a text."""

    def __init__(self, chat: Chat):
        speakers = speakers_of(chat.messages)
        self.people = {name: f"Person {n}" for n, name in enumerate(speakers, 1)}
        self._words: dict[str, str] = {}
        for name, person in self.people.items():
            self._learn(name, person)
        for name in sorted(chat.people - self.people.keys()):
            self._learn(name, "someone")
        names = sorted(self._words, key=lambda word: (-len(word), word))
        pattern = "|".join(re.escape(name) for name in names)
        self._pattern = re.compile(rf"(?<!\w)(?:{pattern})(?!\w)", re.I) if names else None

    def __call__(self, text: str) -> str:
        text = EMAIL.sub("<email>", text)
        if self._pattern:
            text = self._pattern.sub(self._person, text)
        return PHONE.sub(_phone, HANDLE.sub("@someone", text))

    def _learn(self, name: str, person: str) -> None:
        """Take in a name, and the parts of it that may stand alone; a shared part is nobody's."""
        self._words.setdefault(name.casefold(), person)
        parts = re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", name)
        for part in parts if parts != [name] else []:
            word = part.casefold()
            if len(word) > 1 and part[0].isupper() and word not in TITLES:
                known = self._words.get(word, person)
                self._words[word] = person if known == person else "someone"

    def _person(self, found: re.Match[str]) -> str:
        word = found[0]
        if word.casefold() in WORDS and word[0].islower():
            return word
        return self._words.get(word.casefold(), "someone")


def _phone(found: re.Match[str]) -> str:
    digits = sum(character.isdigit() for character in found[0])
    if DATE.fullmatch(found[0]) or not 7 <= digits <= 15:
        return found[0]
    return "<phone>"
