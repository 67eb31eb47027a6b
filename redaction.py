"""Remove secrets and absolute local paths from what is recorded, and find secrets in what is uploaded."""

import base64
import gzip
import json
import os
import re
import shlex
import zipfile
from collections.abc import Callable, Collection, Iterator
from enum import Enum
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import IO, Any
from urllib.parse import quote

import numpy as np
from huggingface_hub import get_token

from .parsing import parse_json, read_yaml

MASK = "***"
# Names of options, environment variables and keys whose value is a secret. `max_new_tokens` and `pad_token` are not.
SECRET_NAME = re.compile(
    r"(?i)(?<![a-z])((hf|hub|api|auth|access)?token|pass(word|wd|phrase)?|pwd|secrets?|(api|access|private|secret)_?key"
    r"|credentials?|bearer)(?![a-z])"
)
SPECIAL_TOKEN = re.compile(r"(?i)\b(pad|eos|bos|unk|sep|cls|mask|seg|boi|eoi|image|video|audio|start|end)_token\b")
# Variables with such names whose values are none
NOT_SECRET_VARIABLES = ("PWD", "OLDPWD", "GPG_KEY")
# Options of train.py whose value is a secret: argparse also accepts unambiguous beginnings of them
SECRET_OPTIONS = ("hub_token", "push_to_hub_token")
NOT_SECRET_OPTIONS = ("push_to_hub", "push_to_hub_model_id", "push_to_hub_organization")
# What is looked for in uploaded files: values in use of at least this length, and these patterns
SHORTEST_SECRET, SHORTEST_WORD = 8, 12
# Literal beginning -> the pattern that follows from there. The beginning makes the search in binary files fast.
PATTERNS = {
    "hf_": r"hf_[A-Za-z0-9]{16,}",
    "api_org_": r"api_org_[A-Za-z0-9]{16,}",
    "ghp_": r"ghp_[A-Za-z0-9]{20,}",
    "gho_": r"gho_[A-Za-z0-9]{20,}",
    "ghs_": r"ghs_[A-Za-z0-9]{20,}",
    "github_pat_": r"github_pat_\w{20,}",
    "glpat-": r"glpat-[\w-]{16,}",
    "sk-": r"sk-(?:[a-z0-9]+-)*\w{24,}",
    "AKIA": r"AKIA[A-Z0-9]{16}",
    "AIza": r"AIza[\w-]{35}",
    "xox": r"xox[abprs]-[\w-]{10,}",
    "eyJ": r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
    "-----BEGIN ": r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----",
    "://": r"://[^\s/:@\"'<>*{}$]{1,256}:(?!\*\*\*@)[^\s/@\"'<>{}$]{1,256}@[\w\[]",
}
_TEXT_PATTERNS = [
    re.compile(r"(?<![A-Za-z0-9])" + pattern) for beginning, pattern in PATTERNS.items() if beginning != "://"
]
_BYTE_PATTERNS = {beginning.encode(): re.compile(pattern.encode(), re.ASCII) for beginning, pattern in PATTERNS.items()}
_URL_PASSWORD = re.compile(r"(://)[^\s/@\"'<>]*:[^\s/@\"'<>]*@")
# token=..., "password": "...", api_key: ...
_NAMED = re.compile(
    r"""(?ix) (?<![a-z]) ((?:[a-z0-9]+[_-])*
        (?:token|password|passwd|passphrase|secret|api_?key|access_?key|private_?key|credentials?) (?:[_-][a-z0-9]+)*
        ["']? \s* [:=] \s* ["']?) ([^\s"',;&{}\[\]()]+)"""
)
_ABSOLUTE = re.compile(r"(?:file://)?(?:/(?!/)|[A-Za-z]:[\\/]|\\\\)[^\n\r\0]*")
_PATH_IN_TEXT = re.compile(
    r"""(?:(?<![\w.:/~<\\*])|(?<=:)(?!//))   # not a part of an address, of a relative path or of a tag
        (?:file:/+|/|[A-Za-z]:[\\/]|\\\\)
        [^\s"'`,;:()\[\]{}<>|=&?*\\/]+ (?:[\\/][^\s"'`,;:()\[\]{}<>|=&?*\\/]*)+""",
    re.VERBOSE,
)
_HOMES = {"home", "Users", "users"}
# Files whose texts may name local paths, and those of the same kind whose texts are the model's own
RECORDS = {".json", ".jsonl", ".md", ".yaml", ".yml", ".txt"}
NOT_RECORDS = {
    *("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json", "special_tokens_map.json"),
    "answers.json",
}
PICKLES, LARGEST_PICKLE = {".bin", ".pkl", ".pickle", ".pth"}, 1 << 26
OWN_TEXTS = {"chat_template", "added_tokens_decoder", "question", "answer", "expected"}
# Files are searched in pieces of so many bytes, which overlap by the longest match
PIECE, OVERLAP = 1 << 24, 4096
ENCRYPTED = 1  # flag of a zip archive's member
# Patterns are looked for in so many bytes around eight of these characters
AROUND = 1024
_IS_WORD = bytes(chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) in "_-:/@.") for byte in range(256))
_ALL_WORDS = int.from_bytes(b"\1" * 8, "little")


# ---------------------------------------------------------------------------------------------------------------------
# Which values are secret
# ---------------------------------------------------------------------------------------------------------------------
def is_secret_name(name: str) -> bool:
    """Return whether the value of an option, variable or key of this name is a secret."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)  # apiKey
    return bool(SECRET_NAME.search(name)) and not SPECIAL_TOKEN.search(name)


def is_secret_option(word: str) -> bool:
    """Return whether a word of the command line is an option whose value is a secret, abbreviated or not."""
    if not word.startswith("--"):
        return False
    name = word[2:].partition("=")[0].replace("-", "_")
    if is_secret_name(name):
        return True
    is_beginning = len(name) > len("hub_") and any(option.startswith(name) for option in SECRET_OPTIONS)
    return is_beginning and name not in NOT_SECRET_OPTIONS


def environment_secrets() -> set[str]:
    """Return the secrets that the environment and the login of huggingface_hub hold."""
    names = [name for name in os.environ if is_secret_name(name) or name.endswith("_KEY")]
    found = {os.environ[name] for name in names if name not in NOT_SECRET_VARIABLES}
    found.add(get_token() or "")
    return {value for value in found if _is_long_enough(value)}


def secrets_of(arguments: list[str]) -> set[str]:
    """Return the secrets of a run: those of its command line, its recipe, and `environment_secrets`.

    The recipe's secrets are the values under secret names, and all values of its `env:` block that are long enough.
    """
    found = set()
    for at, word in enumerate(arguments):
        name, is_one_word, value = word.partition("=")
        if is_secret_option(word):
            found.add(value if is_one_word else (arguments[at + 1 : at + 2] or [""])[0])
        elif name == "--config":
            found |= _recipe_secrets(value if is_one_word else (arguments[at + 1 : at + 2] or [""])[0])
        else:
            found |= set(_named_secrets(_json_of(value if is_one_word else word)))
    return {value for value in found if _is_long_enough(value)} | environment_secrets()


def _recipe_secrets(path: str) -> set[str]:
    """Return the secrets of a YAML file; a file that cannot be read has none here, and the parser refuses it."""
    try:
        recipe = read_yaml(path)
    except ValueError:
        return set()
    found = set(_named_secrets(recipe))
    if isinstance(recipe, dict) and isinstance(recipe.get("env"), dict):
        found |= {str(value) for value in recipe["env"].values()}
    return found


def _named_secrets(value: Any) -> Iterator[str]:
    """Yield the text values below secret names, at any depth."""
    if isinstance(value, dict):
        for name, part in value.items():
            if is_secret_name(str(name)) and isinstance(part, str):
                yield part
            else:
                yield from _named_secrets(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _named_secrets(part)


def _json_of(word: str) -> Any:
    """Return the object that a word of the command line gives as JSON; None for other words."""
    if not word.lstrip().startswith(("{", "[")):
        return None
    try:
        return parse_json(word)
    except ValueError:
        return None


def _is_long_enough(value: str) -> bool:
    """Return whether a value in a file is that secret: a short word, as "changeme", stands in files by chance."""
    return len(value.strip()) >= (SHORTEST_WORD if value.isalpha() else SHORTEST_SECRET)


# ---------------------------------------------------------------------------------------------------------------------
# Records
# ---------------------------------------------------------------------------------------------------------------------
def redact(value: Any, secrets: Collection[str] = ()) -> Any:
    """Return a copy of nested records without secrets and without absolute local paths.

    Args:
        value: dictionaries, lists and texts, as JSON has them; anything else is returned as it is.
        secrets: values that are masked wherever they occur (`secrets_of`).
    """
    if isinstance(value, dict):
        return {redact(name, secrets): _redact_named(str(name), part, secrets) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(redact(part, secrets) for part in value) if type(value) in (list, tuple) else value
    if isinstance(value, PurePath):
        return short_path(str(value)) if value.is_absolute() else value
    is_text = isinstance(value, str) and not isinstance(value, Enum)
    return redact_text(value, secrets) if is_text else value


def _redact_named(name: str, value: Any, secrets: Collection[str]) -> Any:
    if name == "env" and isinstance(value, dict):
        return {variable: MASK for variable in value}
    if _is_secret(name, value):
        return MASK
    if name == "command" and isinstance(value, str):
        return redact_command(value, secrets)
    return redact(value, secrets)


def _is_secret(name: str, value: Any) -> bool:
    is_number = isinstance(value, int) and value >= 1000  # a password of digits, and no count
    return is_secret_name(name) and (isinstance(value, str | bytes) or is_number)


def mask(value: Any, secrets: Collection[str] = ()) -> Any:
    """As `redact`, for a record that stays on this machine: paths are kept."""
    if isinstance(value, dict):
        return {name: MASK if _is_secret(str(name), part) else mask(part, secrets) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(mask(part, secrets) for part in value)
    return mask_text(value, secrets) if type(value) is str else value


def redact_text(text: str, secrets: Collection[str] = ()) -> str:
    """Return the text with secrets masked and absolute local paths shortened."""
    return shorten_paths(mask_text(text, secrets))


def shorten_paths(text: str, shorten: Callable[[str], str] | None = None) -> str:
    """Return the text with absolute local paths shortened, by default by `short_path`."""
    shorten = shorten or short_path
    if _ABSOLUTE.fullmatch(text) and (text.count("/") > 1 or not re.search(r"\s", text)):
        return shorten(text)
    return _PATH_IN_TEXT.sub(lambda found: shorten(found.group()), text)


def _spellings(secrets: Collection[str]) -> set[str]:
    """Return the secrets as they are, as in JSON, in an address, and in base64."""
    encoded = {base64.b64encode(secret.encode()).decode().rstrip("=") for secret in secrets}
    return {*secrets, *encoded, *(json.dumps(secret)[1:-1] for secret in secrets), *(quote(one, "") for one in secrets)}


def mask_text(text: str, secrets: Collection[str] = ()) -> str:
    """Return the text with secrets masked."""
    for spelling in sorted(_spellings(secrets), key=len, reverse=True):
        text = text.replace(spelling, MASK)
    for pattern in _TEXT_PATTERNS:
        text = pattern.sub(MASK, text)
    text = _URL_PASSWORD.sub(rf"\1{MASK}@", text)
    return _NAMED.sub(lambda found: found[1] + (MASK if is_secret_name(found[1]) else found[2]), text)


def redact_arguments(arguments: list[str], secrets: Collection[str] = ()) -> list[str]:
    """Return the words of a command line with secrets masked and absolute local paths shortened."""
    redacted, hides_next = [], False
    for word in arguments:
        if hides_next and not word.startswith("--"):
            redacted.append(MASK)
            hides_next = False
            continue
        hides_next = is_secret_option(word) and "=" not in word
        option, is_one_word, value = word.partition("=") if word.startswith("--") else ("", "", word)
        if is_one_word and is_secret_option(word):
            redacted.append(f"{option}={MASK}")
        else:
            redacted.append(option + is_one_word + _redact_word(value, secrets))
    return redacted


def _redact_word(word: str, secrets: Collection[str]) -> str:
    given = _json_of(word)
    if given is None:
        return redact_text(word, secrets)
    redacted = redact(given, secrets)
    return word if redacted == given else json.dumps(redacted, ensure_ascii=False)


def redact_command(command: str, secrets: Collection[str] = ()) -> str:
    """Return a recorded command with secrets masked and absolute local paths shortened."""
    try:
        words = shlex.split(command)
    except ValueError:  # cut off, or not written by shlex
        return redact_text(command, secrets)
    redacted = redact_arguments(words, secrets)
    return command if redacted == words else shlex.join(redacted)


def short_path(path: str) -> str:
    """Return an absolute path relative to the working directory if it is below it, else its last name.

    The name of a home folder is never returned. A checkpoint-N folder keeps the name of its run.
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
    """Return whether a path relative to the folder names no user: it is not the root, nor the folder of all homes."""
    return len(folder.parts) > 2 or (len(folder.parts) == 2 and folder.parts[1] not in _HOMES)


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------
def shortened_file(path: Path) -> str | None:
    """Return the text of a record or configuration without absolute local paths, or None where nothing changes.

    Tokenizers, code and templates are never changed: their texts are the model's own.
    """
    if path.name in NOT_RECORDS or path.suffix not in RECORDS:
        return None
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    if path.suffix == ".json":
        content = _json_of(text)
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
    """A line of JSONL, or of any text."""
    content = _json_of(line)
    if content is None:
        return shorten_paths(line)
    shortened = _shorten(content)
    return line if shortened == content else json.dumps(shortened, ensure_ascii=False)


def find_local_path(path: Path) -> str | None:
    """Return "a local path" for a pickle or log that holds a path of this machine: it cannot be shortened there."""
    if path.suffix not in PICKLES and ".tfevents." not in path.name:
        return None
    folders = {str(folder) for folder in (Path.home(), Path.cwd()) if len(folder.parts) > 1}
    with open(path, "rb") as file:
        content = file.read(LARGEST_PICKLE)
    return "a local path" if any(f"{folder}/".encode() in content for folder in folders) else None


def find_secret(path: Path, secrets: Collection[str] = ()) -> str | None:
    """Return what kind of secret a file contains, or None: in its bytes, or packed by zip or gzip.

    Args:
        path: any file.
        secrets: values in use, looked for in UTF-8 and UTF-16.
    """
    with open(path, "rb") as file:
        found = _find_in(file, secrets)
    if found is None and path.suffix in (".gz", ".tgz"):
        with gzip.open(path) as opened:
            found = _find_in(opened, secrets)
    if found is None and path.suffix != ".safetensors" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.flag_bits & ENCRYPTED:
                    return "an encrypted part, which cannot be searched"
                if found is None and member.compress_type != zipfile.ZIP_STORED:
                    with archive.open(member) as opened:
                        found = _find_in(opened, secrets)
    return found


def _find_in(file: IO[bytes], secrets: Collection[str]) -> str | None:
    values = [text.encode(encoding) for text in _spellings(secrets) for encoding in ("utf-8", "utf-16-le")]
    overlap = max([OVERLAP, *map(len, values)])
    kept = b""
    while piece := file.read(PIECE):
        content = kept + piece
        if any(value in content for value in values):
            return "a token or password in use"
        for start, end in _worded_parts(content):
            if found := _find_pattern(content[start:end]):
                return found
        kept = content[-overlap:]
    return None


def _worded_parts(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the parts around eight letters or digits in a row: all other bytes hold no pattern.

    The patterns take most of the time of a search, and the bytes of weights have few such parts.
    """
    blocks = np.frombuffer(content.translate(_IS_WORD), np.uint64, count=len(content) // 8)
    start = end = 0
    for block in np.flatnonzero(blocks == _ALL_WORDS).tolist():
        if 8 * block - AROUND > end:
            yield start, end
            start = 8 * block - AROUND
        end = 8 * block + AROUND
    yield max(0, start), end


def _find_pattern(content: bytes) -> str | None:
    for beginning, pattern in _BYTE_PATTERNS.items():
        at = content.find(beginning)
        while at >= 0:
            is_word_end = beginning == b"sk-" and content[max(0, at - 2) : at].isalpha()  # as in "mask-"
            if not is_word_end and pattern.match(content, at):
                return "an address with a password" if beginning == b"://" else "what looks like a token or key"
            at = content.find(beginning, at + 1)
    return None
