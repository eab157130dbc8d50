"""Upload a staging folder to the hub; whatever goes wrong there is one clear line.

Use: `check_repo("user/name")`, then `upload(folder, "user/name", private=False)`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from data_prep.errors import UserError
from eval.publish.staging import FILES

STATUS = {
    401: "refused the token; log in again with `hf auth login`, or set HF_TOKEN",
    403: "the token has no right to write there; use one with the `write` role, or your own name",
    404: "not found, or not to be seen with this token; check the name and the token",
    409: "stands in the way of something that is there already; choose another name",
    413: "too large for the hub; leave files out",
    429: "too many requests; wait, and run the same command again",
}


def check_repo(repo: str) -> None:
    """Raise UserError where `repo` cannot be a model's name on the hub."""
    try:
        validate_repo_id(repo)
        owner, name = repo.split("/")
        if not (owner and name):
            raise ValueError
    except (HFValidationError, ValueError) as error:
        raise UserError(
            f"--repo: {repo} is no name of the hub; give user/name, of letters, digits, `-`, `_` "
            "and `.`, at most 96 of them"
        ) from error


def check_access(repo: str) -> None:
    """Raise UserError where nothing could be uploaded: offline by setting, or no token."""
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{repo}: HF_HUB_OFFLINE is set; unset it to upload")
    if get_token() is None:
        raise UserError(f"{repo}: no token of the hub here; run `hf auth login` or set HF_TOKEN")


def upload(folder: Path, repo: str, private: bool) -> str:
    """Create the repository where it is missing, upload in one commit, return its address."""
    check_repo(repo)
    check_access(repo)
    api = HfApi()
    with _one_line(repo):
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.repo_info(repo).private:
            raise UserError(
                f"{repo}: is there already, and public; make it private in its settings on the "
                "hub, or leave out --private"
            )
        done = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=list(FILES),
            commit_message="Adapter, card and records",
        )
    return str(done.commit_url)


@contextmanager
def _one_line(repo: str) -> Iterator[None]:
    """Turn what the hub's client raises into a UserError."""
    mend = "nothing here was changed; run the same command again"
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise UserError(f"{repo}: HF_HUB_OFFLINE is set; unset it to upload") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = error.server_message or f"status {status}"
        why = STATUS.get(status, f"the hub answered {status}; {mend}")
        raise UserError(f"{repo}: {why} (it says: {said})") from error
    except (httpx.HTTPError, OSError) as error:
        raise UserError(
            f"{repo}: the hub cannot be reached ({type(error).__name__}: {error}); check the "
            f"network; {mend}"
        ) from error
    except (ValueError, RuntimeError) as error:  # a card, a file or an answer it will not have
        raise UserError(f"{repo}: the hub's client gave up ({error}); {mend}") from error
