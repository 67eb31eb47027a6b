"""Upload a folder to the Hub in one commit, after a search for secrets; errors are one line."""

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from gemma_lisa.safety.local_paths import shortened_file
from gemma_lisa.safety.secret_names import environment_secrets
from gemma_lisa.safety.upload_scan import find_local_path, find_secret

from .checksums import CHECKSUMS
from .hub_repository import files_of

REPO_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_REFUSALS = {401: "no token that is accepted; `hf auth login` stores one", 403: "this token may not write there"}
# Of these the repository holds what the folder holds, and nothing of an earlier push: half of two models would load
OWN_FILES = re.compile(rf"[^/]*\.safetensors(\.index\.json)?|[^/]*_gemma_lisa\.py|{CHECKSUMS}")


def check_name(name: str) -> None:
    """An organisation's or a person's name, and the repository's.

    Raises:
        ValueError: it is no such name.
    """
    if not REPO_NAME.fullmatch(name):
        raise ValueError(f"{name} is no name on the Hub; org/name is needed.")


def check_access(name: str) -> None:
    """The token is accepted, and the name is its owner's or an organisation's of his: asked before any work is done.

    Raises:
        ValueError: it is not.
        OSError: the Hub cannot be reached.
    """
    with plain_words(name):
        owner = HfApi().whoami()
    mine = [owner["name"], *(organisation["name"] for organisation in owner.get("orgs", []))]
    if name.split("/")[0] not in mine:
        raise ValueError(f"{name} cannot be written: this token writes to {', '.join(mine)}.")


def push(
    folder: Path,
    name: str,
    private: bool = False,
    message: str = "Gemma-LISA: weights, code, card",
    repo_type: str = "model",
) -> str:
    """Upload the folder in one commit; its address.

    The repository is made if there is none, after the search for secrets. Until the commit, which is the last call,
    nothing of the folder can be seen there.

    Args:
        folder: of a checkpoint or a data set.
        name: org/name.
        private: make the repository private, if there is none yet.
        message: of the commit.
        repo_type: "model" or "dataset".

    Raises:
        ValueError: no token, or one that may not write there; a file contains a secret.
        OSError: the connection broke; there is no commit then.
    """
    check_no_secrets(folder, paths=files_of(folder))
    with plain_words(name):
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
    """Upload a folder to a model's repository that is there, in one commit, the last of its calls to the Hub.

    Weights and code that an earlier commit left, and this folder has not, are taken away; other files stay. Records and
    configurations go without absolute local paths.

    Raises:
        ValueError: a file contains a secret; nothing is uploaded then.
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
    """Upload a folder that was searched for secrets; see `commit_folder`."""
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
    """Search what is about to be uploaded for tokens, passwords and keys: every file, in its bytes.

    A pickle that holds a path of this machine is refused too.

    Args:
        folder: of the files.
        secrets: values in use, beside those of the environment and of the login.
        paths: of the files, from the folder; by default all of it.

    Raises:
        ValueError: with the file's name; the secret itself is in no message.
    """
    values = dict.fromkeys((secret for secret in secrets if secret), "") | environment_secrets()
    for path in paths or (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()):
        found = find_secret(folder / path, values) or find_local_path(folder / path)
        if found is None and any(value in path.as_posix() for value in values):
            found = "in its name, a token or password in use"
        if found is not None:
            raise ValueError(
                f"{path.as_posix()} contains {found}. Nothing was uploaded. Remove it from the file, and revoke it if "
                "it is a token that others could read."
            )


@contextlib.contextmanager
def plain_words(name: str) -> Iterator[None]:
    """What the Hub's client raises, a dozen classes of it, in one line."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        raise ValueError(f"{name} was not written: {_REFUSALS.get(status, error)}.") from error
    except LocalTokenNotFoundError as error:
        raise ValueError(f"{name} was not written: {_REFUSALS[401]}.") from error
    except ValueError:  # of what is pushed, as a card that the Hub does not read
        raise
    except Exception as error:
        reason = error.__cause__ or error
        raise OSError(f"{name} was not written, the Hub was not reached or broke off: {reason}; try again.") from error


def list_files(folder: Path) -> str:
    """The files with their sizes, a line each, and their sum."""
    sizes = {path: (folder / path).stat().st_size for path in files_of(folder)}
    lines = [f"  {size:>15,}  {path.as_posix()}" for path, size in sizes.items()]
    return "\n".join([*lines, f"  {sum(sizes.values()):>15,}  bytes in {len(sizes)} files"])
