"""Names, numbers and addresses out of a chat: `Person 1`, `<phone>`, `<email>`.

What is masked are the names that the export itself knows: those who write, and those whom Telegram
and Slack list. A name that stands in the text alone cannot be told from another word. In doubt more
is masked than need be.
"""

import re
from dataclasses import replace

from eval.chats.chat import Chat, speakers_of
from eval.chats.names import BEFORE, key, parts, pattern, same, spellings
from eval.chats.phones import mask_phones

OTHERS = "someone"
EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
HANDLE = re.compile(rf"{BEFORE}(?<!@)@([^\W\d]\w*(?:[.-]\w+)*)")
EVERYONE = frozenset(["here", "channel", "everyone", "all"])
# Names that chats hold as words too: in small letters they are names only where the export writes
# them so, or after an @.
_WORDS = """
    will mark may june april august rose bill hope grace art max faith joy dawn page chase drew
    sunny summer autumn rich frank guy grant miles skip chip
    a an do he i in my no so to you
"""
WORDS = frozenset(_WORDS.split())


def anonymize(chat: Chat, number: int) -> Chat:
    """The chat with its speakers as Person 1, Person 2 ..., in the text too; its name is a number.

    Others whom the export knows become `someone`.
    """
    mask = _Mask(chat)
    messages = [
        replace(m, speaker=mask.people.get(m.speaker, ""), text=mask(m.text)) for m in chat.messages
    ]
    return replace(chat, name=f"chat {number}" if chat.name else "", messages=messages)


class _Mask:
    """Replaces what names a person in a text."""

    def __init__(self, chat: Chat):
        speakers = speakers_of(chat.messages)
        self.people = {name: f"Person {n}" for n, name in enumerate(speakers, 1)}
        self._words: dict[str, str] = {}
        self._spelled: set[str] = set()
        self._small: set[str] = set()
        for names in (*((name,) for name in speakers), *sorted(chat.people, key=self._who)):
            for name in names:
                self._learn(same(name).strip(), self._who(names))
        self._kept = WORDS - self._small
        self._pattern = pattern(self._spelled)

    def __call__(self, text: str) -> str:
        text = EMAIL.sub("<email>", same(text))
        return mask_phones(self._pattern.sub(self._person, HANDLE.sub(self._handle, text)))

    def _who(self, names: tuple[str, ...]) -> str:
        """The person with these names; `Person ...` sorts before `someone`."""
        return next((self.people[name] for name in names if name in self.people), OTHERS)

    def _learn(self, name: str, person: str) -> None:
        """Take in a name and its parts; one that speakers share is nobody's."""
        for word in filter(None, (name, *parts(name))):
            if word.islower():
                self._small.add(key(word))
            for spelled in spellings(word):
                self._spelled.add(spelled)
                known = self._words.setdefault(key(spelled), person)
                if known != person != OTHERS:
                    self._words[key(spelled)] = OTHERS

    def _handle(self, found: re.Match[str]) -> str:
        """A handle as `@someone`, unless it is just a name that is known."""
        name = self._pattern.match(found.string, found.start(1))
        known = name and found.string[name.end() : found.end()][:1] not in (".", "-")
        return found[0] if known or found[1].lower() in EVERYONE else f"@{OTHERS}"

    def _person(self, found: re.Match[str]) -> str:
        word, before = key(found[0]), found.string[found.start() - 1 : found.start()]
        if word in self._kept and found[0][0].islower() and before != "@":
            return found[0]
        return self._words.get(word, OTHERS)
