"""Plain text: a dialogue of `Name: text` lines, as SAMSum has them."""

import re

from data_prep.errors import UserError
from eval.chats.chat import Message

LINE_END = re.compile("\r\n|\r|\n")
TURN = re.compile(r"\s*(?!https?:)([^\s:][^:\n]{0,59}?)\s*:(?:[ \t](.*)|)")


def parse_plain(text: str, place: str) -> list[Message]:
    """The turns of a dialogue; a line without a name is kept as it is, a blank one left out.

    Raises UserError where no line has a name.
    """
    messages = []
    for line in LINE_END.split(text):
        if not line.strip():
            continue
        turn = TURN.fullmatch(line)
        if turn and (turn[2] or "").strip():
            messages.append(Message(None, turn[1], turn[2].rstrip()))
        else:
            messages.append(Message(None, "", line.rstrip()))
    if not text.strip():
        raise UserError(f"{place}: is empty; give a dialogue with a turn a line (`Name: text`)")
    if not any(message.speaker for message in messages):
        raise UserError(
            f"{place}: no line is a turn of a dialogue; write each as `Name: text`, or give a "
            "WhatsApp, Telegram or Slack export"
        )
    return messages
