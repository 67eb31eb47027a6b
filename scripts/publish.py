"""A complete folder to the Hub: proven to load where this project is not, then uploaded in one commit."""

import contextlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from gemma_lisa.checkpoints.hub_repository import commit_folder, files_of

CHECK = Path(__file__).with_name("loading_check.py")
REPO_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_REFUSALS = {401: "no token that is accepted; `hf auth login` stores one", 403: "this token may not write there"}


def list_files(folder: Path) -> str:
    """The files with their sizes, a line each, and their sum."""
    sizes = {path: (folder / path).stat().st_size for path in files_of(folder)}
    lines = [f"  {size:>15,}  {path.as_posix()}" for path, size in sizes.items()]
    return "\n".join([*lines, f"  {sum(sizes.values()):>15,}  bytes in {len(sizes)} files"])


def check_loading(folder: Path, name: str | None = None, python: str = sys.executable) -> dict[str, int]:
    """Load and ask in a fresh interpreter that has transformers but not this project.

    Args:
        folder: the exported folder, with examples and their answers.
        name: load the model by this name on the Hub instead, and not handler.py.
        python: whose packages are used; another than this one brings its own.

    Returns:
        how many masks were compared, and equal, each way.

    Raises:
        ValueError: it does not load, or answers otherwise than it did here.
    """
    is_own = python == sys.executable
    with tempfile.TemporaryDirectory() as home:
        # Its own home, so that no code of an earlier look is taken; the CPU, where the answers were made
        environment = {**os.environ, "HF_HOME": home, "CUDA_VISIBLE_DEVICES": ""}
        if name is None:
            environment["HF_HUB_OFFLINE"] = "1"
        packages = sysconfig.get_path("purelib") if is_own else ""
        command = [python, "-B", *(["-I", "-S"] if is_own else ["-I"]), str(CHECK), packages, str(folder)]
        done = subprocess.run(
            [*command, *([name] if name else [])], cwd=home, env=environment, capture_output=True, text=True
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise ValueError(f"{name or folder} does not load where this project is not: {last}")
    return json.loads(done.stdout.splitlines()[-1])["masks"]


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


def push(folder: Path, name: str, private: bool = False, message: str = "Gemma-LISA: weights, code, card") -> str:
    """Upload the folder in one commit; its address.

    The repository is made if there is none. Until the commit, which is the last call, nothing of it can be seen there.

    Raises:
        ValueError: no token, or one that may not write there.
        OSError: the connection broke; there is no commit then.
    """
    with plain_words(name):
        HfApi().create_repo(name, private=private, exist_ok=True)
        return commit_folder(folder, name, message).commit_url


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
