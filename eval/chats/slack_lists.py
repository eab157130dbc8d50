"""What a Slack export lists: its users, with all their names, and the titles of its channels."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from eval.chats.archive import check_size

LISTS = ("channels.json", "groups.json", "dms.json", "mpims.json")

Users = dict[str, tuple[str, ...]]  # the names by id, first the one that is shown


def users_of(folder: Path, place: str, errors: list[UserError]) -> Users:
    """The users that are listed; a list with odd entries adds its error to `errors`.

    Raises UserError where the list cannot be read, for without it nobody's name can be masked.
    """
    users: Users = {}

    def take(user: dict[str, Any]) -> None:
        users[str(user.get("id"))] = names_of(user | {"profile": {}})  # kept where that is odd
        users[str(user.get("id"))] = names_of(user)

    errors.extend(_odd(objects_of(folder / "users.json", place), take, f"{place}/users.json"))
    return users


def names_of(user: dict[str, Any]) -> tuple[str, ...]:
    """All names of a user, the one that Slack shows first; the handle where there is no other."""
    profile = user.get("profile") or {}
    found = (
        profile.get("display_name"), profile.get("real_name"), user.get("real_name"),
        profile.get("first_name"), profile.get("last_name"),
    )  # fmt: skip
    names = [str(name).strip() for name in found if name and str(name).strip()]
    return tuple(dict.fromkeys(names)) or (str(user.get("name") or user.get("id")),)


def titles_of(folder: Path, place: str, users: Users, errors: list[UserError]) -> dict[str, str]:
    """The title of each folder: `#general`, or who talks to whom; damaged lists go to `errors`."""
    titles: dict[str, str] = {}

    def take_channel(entry: dict[str, Any]) -> None:
        titles[str(entry.get("name"))] = f"#{entry.get('name')}"

    def take_direct(entry: dict[str, Any]) -> None:
        members = [users.get(str(m), (str(m),))[0] for m in entry.get("members") or []]
        titles[str(entry.get("id"))] = ", ".join(members)

    for name in LISTS:
        take = take_direct if name == "dms.json" else take_channel
        try:
            errors.extend(_odd(objects_of(folder / name, place), take, f"{place}/{name}"))
        except UserError as error:
            errors.append(error)
    return titles


def objects_of(path: Path, place: str) -> list[dict[str, Any]]:
    """The objects of a JSON file; none where it does not exist.

    Raises UserError where it is damaged or too large.
    """
    if not path.is_file():
        return []
    shown = f"{place}/{path.name}"
    try:
        check_size(path.stat().st_size, shown)
        found = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{shown}: cannot be read ({error}); export or unpack it again") from error
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise UserError(f"{shown}: is no list of objects; export or unpack it again")
    return found


def _odd(
    entries: list[dict[str, Any]], take: Callable[[dict[str, Any]], None], shown: str
) -> Iterator[UserError]:
    """Take in the entries; the error of the first that is odd."""
    first = ""
    for number, entry in enumerate(entries, 1):
        try:
            take(entry)
        except (TypeError, AttributeError) as error:
            first = first or f"{shown}: entry {number} is none of Slack's ({error!r})"
    if first:
        yield UserError(f"{first}; the others are used; export it again")
