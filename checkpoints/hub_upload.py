"""Upload a folder to the Hub in one commit, after searching it for secrets. Every error is one line."""

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from gemma_lisa.safety.local_paths import shortened_file
from gemma_lisa.safety.secret_names import environment_secrets
from gemma_lisa.safety.short_text import VALUE_LENGTH, count_of, reason_of, shorten
from gemma_lisa.safety.upload_scan import find_local_path, find_secret

from .checksums import CHECKSUMS
from .hub_repository import files_of

REPO_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_REFUSALS = {
    401: "no valid token was found. Log in with `hf auth login`",
    403: "this token has no write access there",
}
# Files of an earlier push that are deleted if the folder does not contain them. Else weights of two models would mix.
OWN_FILES = re.compile(rf"[^/]*\.safetensors(\.index\.json)?|[^/]*_gemma_lisa\.py|{CHECKSUMS}")


def check_name(name: str) -> None:
    """Check that a name has the form org/name or user/name.

    Raises:
        ValueError: it does not.
    """
    if not REPO_NAME.fullmatch(name):
        raise ValueError(f"{shorten(name, VALUE_LENGTH)} is not the name of a Hub repository; expected org/name.")


def check_access(name: str) -> None:
    """Check, before any work is done, that the token of this machine can write to the repository.

    Raises:
        ValueError: the token is not valid, or the name belongs to another user or organization.
        OSError: the Hub cannot be reached.
    """
    with one_line_hub_errors(name):
        owner = HfApi().whoami()
    mine = [owner["name"], *(organisation["name"] for organisation in owner.get("orgs", []))]
    if name.split("/")[0] not in mine:
        raise ValueError(f"{name} was not uploaded: this token can write only to {', '.join(mine)}.")


def push(
    folder: Path,
    name: str,
    private: bool = False,
    message: str = "Gemma-LISA: weights, code, card",
    repo_type: str = "model",
) -> str:
    """Upload a folder in one commit and return the URL of the commit.

    The folder is first searched for secrets. Then the repository is created if it does not exist. Files of the folder
    become visible only with the commit, which is the last call.

    Args:
        folder: folder of a checkpoint or a data set.
        name: org/name.
        private: create the repository as private. It has no effect on an existing repository.
        message: commit message.
        repo_type: "model" or "dataset".

    Raises:
        ValueError: there is no valid token, it has no write access, or a file contains a secret.
        OSError: the connection failed. Nothing was committed then.
    """
    check_no_secrets(folder, paths=files_of(folder))
    with one_line_hub_errors(name):
        HfApi().create_repo(name, repo_type=repo_type, private=private, exist_ok=True)
        return _commit(folder, name, message, repo_type=repo_type).commit_url


def commit_folder(
    folder: Path,
    name: str,
    message: str,
    revision: str | None = None,
    token: str | None = None,
    secrets: Collection[str] = (),
) -> CommitInfo:
    """Upload a folder to an existing model repository in one commit.

    Weights and code of earlier commits that the folder does not contain are deleted; other files are kept. Absolute
    local paths are removed from records and configurations.

    Raises:
        ValueError: a file contains a secret. Nothing is uploaded then.
    """
    check_no_secrets(folder, {*secrets, token or ""}, files_of(folder))
    return _commit(folder, name, message, revision, token)


def _commit(
    folder: Path,
    name: str,
    message: str,
    revision: str | None = None,
    token: str | None = None,
    repo_type: str = "model",
) -> CommitInfo:
    """Upload a folder that was already searched for secrets; see `commit_folder`."""
    api = HfApi(token=token)
    there = api.repo_info(name, repo_type=repo_type, revision=revision)
    paths = [path.as_posix() for path in files_of(folder)]
    shortened = {path: shortened_file(folder / path) for path in paths}
    contents = {path: folder / path if text is None else text.encode() for path, text in shortened.items()}
    operations = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=contents[path]) for path in paths]
    for entry in there.siblings or []:
        if OWN_FILES.fullmatch(entry.rfilename) and entry.rfilename not in paths:
            operations.append(CommitOperationDelete(path_in_repo=entry.rfilename))
    return api.create_commit(
        *(name, operations),
        commit_message=message,
        repo_type=repo_type,
        revision=revision,
        parent_commit=there.sha,
    )


def check_no_secrets(folder: Path, secrets: Collection[str] = (), paths: Iterable[Path] | None = None) -> None:
    """Search the bytes of every file to upload for tokens, passwords and keys, and pickles also for local paths.

    Args:
        folder: folder of the files.
        secrets: secret values to search for, in addition to those of the environment and of the Hub login.
        paths: files to search, relative to the folder (default: all files).

    Raises:
        ValueError: a file contains a secret or a local path. The message names the file but not the secret.
    """
    values = dict.fromkeys((secret for secret in secrets if secret), "") | environment_secrets()
    for path in paths or (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()):
        found = find_secret(folder / path, values) or find_local_path(folder / path)
        if found is None and any(value in path.as_posix() for value in values):
            found = "a token or password in use, in its name"
        if found is not None:
            raise ValueError(
                f"{path.as_posix()} contains {found}. Nothing was uploaded. Remove it from the file. If it is a token "
                "that others could read, revoke it."
            )


@contextlib.contextmanager
def one_line_hub_errors(name: str) -> Iterator[None]:
    """Turn the errors of the Hub's client, which are of a dozen classes, into errors of one line.

    Raises:
        ValueError: the Hub refused the request.
        OSError: the Hub was not reached, or the connection failed.
    """
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        raise ValueError(f"{name} was not uploaded: {_REFUSALS.get(status, reason_of(error))}.") from error
    except LocalTokenNotFoundError as error:
        raise ValueError(f"{name} was not uploaded: {_REFUSALS[401]}.") from error
    except ValueError:  # about the content, such as a model card with invalid metadata
        raise
    except Exception as error:
        reason = reason_of(error.__cause__ or error)
        raise OSError(f"{name} was not uploaded: the connection to the Hub failed ({reason}). Try again.") from error


def list_files(folder: Path) -> str:
    """Return one line per file with its size in bytes, and a line with the total."""
    sizes = {path: (folder / path).stat().st_size for path in files_of(folder)}
    lines = [f"  {size:>15,}  {path.as_posix()}" for path, size in sizes.items()]
    return "\n".join([*lines, f"  {sum(sizes.values()):>15,}  bytes in {count_of(len(sizes), 'file')}"])
