"""A zipped export: what can hold messages is unpacked into a temporary folder, media are not."""

import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.errors import UserError

WANTED = (".txt", ".json", ".jsonl")


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """A folder with the text files of a `.zip`, while the block lasts.

    Raises UserError where the archive is damaged, wants a password or cannot be unpacked.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            with zipfile.ZipFile(archive) as zipped:
                for member in zipped.infolist():  # `extract` itself keeps to the folder
                    if member.filename.lower().endswith(WANTED):
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
