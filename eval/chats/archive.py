"""A zipped export: what can hold messages is unpacked into a temporary folder, media are not."""

import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.errors import UserError

WANTED = (".txt", ".json", ".jsonl")
MOST_BYTES = 10**9  # some ten million messages, which take several times as much memory
MOST_FOLDERS = 50  # one in another; exports have three or four


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """A folder with the text files of a `.zip`, while the block lasts.

    Raises UserError where the archive is damaged, wants a password, is too large or cannot be
    unpacked.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            with zipfile.ZipFile(archive) as zipped:
                members = [member for member in zipped.infolist() if _wanted(member.filename)]
                _check(members, archive)
                for member in members:  # `extract` itself keeps to the folder
                    zipped.extract(member, folder)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise UserError(f"{archive}: is damaged ({error}); export or fetch it again") from error
        except RuntimeError as error:  # zipfile's own for it
            raise UserError(
                f"{archive}: wants a password; unpack it and give the folder"
            ) from error
        except OSError as error:
            raise UserError(
                f"{archive}: cannot be unpacked ({error.strerror or error}); unpack it yourself "
                "and give the folder"
            ) from error
        yield folder


def check_size(size: int, shown: object) -> None:
    """Raise UserError where text of so many bytes is more than memory may take."""
    if size > MOST_BYTES:
        raise UserError(
            f"{shown}: holds {size:,} bytes of text, more than {MOST_BYTES:,}; give a part of it"
        )


def _wanted(name: str) -> bool:
    """Whether a member can hold messages; `__MACOSX` is what a Mac knows about the files."""
    return name.lower().endswith(WANTED) and "__MACOSX" not in name.split("/")


def _check(members: list[zipfile.ZipInfo], archive: Path) -> None:
    check_size(sum(member.file_size for member in members), archive)
    if any(member.filename.count("/") > MOST_FOLDERS for member in members):
        raise UserError(
            f"{archive}: has more than {MOST_FOLDERS} folders one in another; unpack it yourself "
            "and give the files"
        )
