"""Shorten absolute local paths in texts, and in the records and configurations of a folder."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from .parsing import json_or_none

_ABSOLUTE = re.compile(r"(?:file://)?(?:/(?!/)|[A-Za-z]:[\\/]|\\\\)[^\n\r\0]*")
_PATH_IN_TEXT = re.compile(
    r"""(?:(?<![\w.:/~<\\*])|(?<=:)(?!//))   # not part of a URL, a relative path or a tag
        (?:file:/+|/|[A-Za-z]:[\\/]|\\\\)
        [^\s"'`,;:()\[\]{}<>|=&?*\\/]+ (?:[\\/][^\s"'`,;:()\[\]{}<>|=&?*\\/]*)+""",
    re.VERBOSE,
)
_HOMES = {"home", "Users", "users"}
# Suffixes of files that can contain local paths, and files that are never changed: their texts belong to the model
RECORDS = {".json", ".jsonl", ".md", ".yaml", ".yml", ".txt"}
NOT_RECORDS = {
    *("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json", "special_tokens_map.json"),
    "answers.json",
}
OWN_TEXTS = {"chat_template", "added_tokens_decoder", "question", "answer", "expected"}


def short_path(path: str) -> str:
    """Return a path relative to the working directory if it is inside it, else the last part of the path.

    A home folder becomes "~". A checkpoint-N folder keeps the name of its run.
    """
    path = re.sub(r"^file:/*(?=/)", "", path)
    is_windows = not path.startswith("/")
    pure = PureWindowsPath(path) if is_windows else PurePosixPath(os.path.normpath(path))
    is_home = len(pure.parts) <= 3 and pure.parts[1:2] and pure.parts[1] in _HOMES
    if is_home or str(pure) in ("/root", os.path.expanduser("~")):
        return "~"
    if not is_windows and _is_project_folder(here := Path.cwd()) and pure.is_relative_to(here):
        return str(pure.relative_to(here))
    names = pure.parts[1:]
    if len(names) > 1 and re.fullmatch(r"checkpoint-\d+", names[-1]):
        return f"{short_path(str(pure.parent))}/{names[-1]}"
    return names[-1] if names else "/"


def _is_project_folder(folder: Path) -> bool:
    """Return whether a relative path from this folder contains no user name: it is not / or the folder of homes."""
    return len(folder.parts) > 2 or (len(folder.parts) == 2 and folder.parts[1] not in _HOMES)


def shorten_paths(text: str, shorten: Callable[[str], str] | None = None) -> str:
    """Return the text with absolute local paths shortened (default: with `short_path`)."""
    shorten = shorten or short_path
    if _ABSOLUTE.fullmatch(text) and (text.count("/") > 1 or not re.search(r"\s", text)):
        return shorten(text)
    return _PATH_IN_TEXT.sub(lambda found: shorten(found.group()), text)


def shortened_file(path: Path) -> str | None:
    """Return the text of a record or configuration without absolute local paths, or None if nothing changes.

    Tokenizers, code and templates are never changed, because their texts belong to the model.
    """
    if path.name in NOT_RECORDS or path.suffix not in RECORDS:
        return None
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    if path.suffix == ".json":
        content = json_or_none(text)
        shortened = _shorten(content)
        return None if shortened == content else json.dumps(shortened, indent=2, ensure_ascii=False) + "\n"
    lines = text.split("\n")
    shortened = [_shorten_line(line) for line in lines]
    return None if shortened == lines else "\n".join(shortened)


def _shorten(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: part if name in OWN_TEXTS else _shorten(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_shorten(part) for part in value]
    return shorten_paths(value) if isinstance(value, str) else value


def _shorten_line(line: str) -> str:
    """Shorten the paths in a line of JSONL or of any text."""
    content = json_or_none(line)
    if content is None:
        return shorten_paths(line)
    shortened = _shorten(content)
    return line if shortened == content else json.dumps(shortened, ensure_ascii=False)
