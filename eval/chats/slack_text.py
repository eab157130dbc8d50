"""The text of a Slack message as a reader sees it: mentions, links, blocks, files."""

import re
from typing import Any

from eval.chats.chat import media_word
from eval.chats.slack_lists import Users

MARKUP = re.compile(r"<([^<>|]+)(?:\|([^<>]*))?>")


def text_of(entry: dict[str, Any], users: Users) -> str:
    """The text without Slack's markup; it may stand in blocks alone, a bot's in attachments."""
    text = (entry.get("text") or "").strip()
    text = text or "\n".join(map(_block, entry.get("blocks") or [])).strip()
    if not text:
        attached = entry.get("attachments") or []
        text = " ".join(str(a.get("text") or a.get("fallback") or "") for a in attached)
    text = MARKUP.sub(lambda m: _plain(m[1], m[2], users), text)
    text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    files = [media_word(str(f.get("name") or f.get("mode"))) for f in entry.get("files") or []]
    return " ".join(part for part in (text.strip(), *files) if part)


def _plain(target: str, label: str | None, users: Users) -> str:
    """What `<target|label>` looks like to a reader."""
    if target.startswith("@"):
        name = users[target[1:]][0] if target[1:] in users else label or target[1:]
        return f"@{name}"
    if target.startswith("#"):
        return f"#{label or target[1:]}"
    if target.startswith("!"):
        return label or f"@{target[1:].split('^')[0]}"
    return label or target.removeprefix("mailto:")


def _block(block: dict[str, Any]) -> str:
    """A block, or an element of one, in the markup that a message's text has."""
    kind, text = block.get("type"), block.get("text")
    if kind == "user":
        return f"<@{block['user_id']}>"
    if kind == "channel":
        return f"<#{block['channel_id']}>"
    if kind == "broadcast":
        return f"<!{block['range']}>"
    if kind == "emoji":
        return f":{block['name']}:"
    if kind == "link":
        return f"<{block['url']}|{text}>" if text else f"<{block['url']}>"
    if isinstance(text, dict):  # of a section or a header
        text = text["text"]
    elif kind == "text" and text:  # of rich text, the only one that is not escaped
        text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    inline = kind in ("rich_text_section", "rich_text_quote", "rich_text_preformatted")
    inner = [*(block.get("fields") or []), *(block.get("elements") or [])]
    return ("" if inline else "\n").join([*([text] if text else []), *map(_block, inner)])
