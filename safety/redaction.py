"""Remove secrets and absolute local paths from what is recorded, and find secrets in what is uploaded."""

import base64
import bz2
import gzip
import json
import lzma
import os
import re
import shlex
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import Enum
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import IO, Any
from urllib.parse import quote

import numpy as np
from huggingface_hub import get_token

from .parsing import parse_json, read_yaml

MASK = "***"
# Words of names: "hubToken" and "HUB_TOKEN" are "hub token"
_NAME_WORD = re.compile(r"[A-Z0-9]+(?![a-z])|[A-Z]?[a-z0-9]+")
# A word that makes a name secret: alone or glued to another, as in "PGPASSWORD"
_SECRET_WORD = re.compile(
    r"\w*(passwords?|passwd|passphrases?|pwd|secrets?|credentials?|(api|access|private|secret)keys?)"
    r"|bearer|authorization|cookies?|jwt|(db|my|pg|ssh|smtp|ftp|mail|proxy|redis|mysql|user|root|admin)pass"
)
_SECRET_PAIRS = re.compile(
    r"\b(api|access|private|secret|auth|encryption|signing|ssh|account|storage|master|deploy) keys?\b"
    r"|\b(db|my|pg|ssh|smtp|ftp|mail|proxy|redis|mysql|user|root|admin|api|git|http|https) pass$|^pass$|\bauth$"
)
# "token" behind one of these is a token of a text, and so are "token_type" and "token_ids"
_TEXT_TOKENS = {
    *("pad", "eos", "bos", "unk", "sep", "cls", "mask", "seg", "boi", "eoi", "eot", "eom", "image", "img", "video"),
    *("audio", "start", "end", "stop", "first", "last", "next", "previous", "prev", "answer", "special", "added"),
    *("extra", "new", "input", "output", "text", "prompt", "question", "word", "sub", "soft", "vision", "visual"),
    *("object", "region", "num", "n", "max", "min", "mean", "per", "each", "every", "this", "that", "a", "the", "one"),
    *("other", "unknown", "expected", "generated", "predicted", "target", "label", "current", "begin", "turn", "final"),
    *("single", "second", "total", "count", "box", "point", "ignore", "role", "class", "query", "context", "pre", "no"),
}
_TOKEN = re.compile(r"([a-z0-9]*?)tokens?")
_BEHIND_TOKEN = re.compile(r"value|secret|str|string|\d+")
# Variables with such names whose values are none
NOT_SECRET_VARIABLES = ("PWD", "OLDPWD", "GPG_KEY")
# Options of train.py whose value is a secret: argparse also accepts unambiguous beginnings of them
SECRET_OPTIONS = ("hub_token", "push_to_hub_token")
NOT_SECRET_OPTIONS = ("push_to_hub", "push_to_hub_model_id", "push_to_hub_organization")
# What is looked for in uploaded files: values in use of at least this length, and these patterns
SHORTEST_SECRET, SHORTEST_WORD = 8, 12
# The value of a variable such as PRIMARY_KEY is often the name of a column: keys are longer, and hold digits
SHORTEST_KEY = 16
# Literal beginning -> the pattern that follows from there. The beginning makes the search in binary files fast. All
# repetitions that others follow are bounded: the time is linear in the length of the text.
PATTERNS = {
    "hf_": r"hf_(?=[A-Za-z]{0,64}[0-9])[A-Za-z0-9]{30,}",
    "api_org_": r"api_org_[A-Za-z0-9]{16,}",
    "ghp_": r"ghp_[A-Za-z0-9]{20,}",
    "gho_": r"gho_[A-Za-z0-9]{20,}",
    "ghu_": r"ghu_[A-Za-z0-9]{20,}",
    "ghr_": r"ghr_[A-Za-z0-9]{20,}",
    "ghs_": r"ghs_[A-Za-z0-9]{20,}",
    "github_pat_": r"github_pat_\w{20,}",
    "glpat-": r"glpat-[\w-]{16,}",
    "npm_": r"npm_(?=[A-Za-z]{0,64}[0-9])[A-Za-z0-9]{30,}",
    "pypi-": r"pypi-(?=[A-Za-z_-]{0,64}[0-9])[\w-]{32,}",
    "gsk_": r"gsk_(?=[A-Za-z]{0,64}[0-9])[A-Za-z0-9]{30,}",
    "sk_live_": r"sk_live_[A-Za-z0-9]{16,}",
    "rk_live_": r"rk_live_[A-Za-z0-9]{16,}",
    "ya29.": r"ya29\.[\w-]{20,}",
    "sk-": r"sk-(?:[a-z0-9]{1,20}-){0,4}\w{24,}",
    "AKIA": r"AKIA[A-Z0-9]{16}",
    "AIza": r"AIza[\w-]{35}",
    "xox": r"xox[abeprs]-[\w-]{10,}",
    "eyJ": r"eyJ[\w-]{10,512}\.eyJ[\w-]{10,4096}\.[\w-]{10,}",
    "-----BEGIN ": r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----",
    # Not a placeholder: "user:password@", "USER:PASSWORD@", "user:***@"
    "://": r"://[^\s/:@\"'<>*{}$]{1,256}:(?!(?:\*\*\*|[a-z]{1,11}|[A-Z_]{1,32})@)[^\s/@\"'<>{}$]{1,256}@[\w\[]",
}
_TEXT_PATTERNS = [
    re.compile(r"(?<![A-Za-z0-9])" + pattern) for beginning, pattern in PATTERNS.items() if beginning != "://"
]
_BYTE_PATTERNS = {beginning.encode(): re.compile(pattern.encode(), re.ASCII) for beginning, pattern in PATTERNS.items()}
# https://name:password@host, the password with slashes (but no port), and https://token@host
_USER_INFOS = [
    re.compile(r"""(://)([^\s/@:"'<>]{1,128}:(?!\d{1,5}[/?#])[^\s@"'<>]{0,256})@"""),
    re.compile(r"""(://)([^\s/"'<>]{1,256})@"""),
]
# https://host/path?name=value&name=value
_PARAMETER = re.compile(r"""([?&;]([\w.-]{1,64})=)([^\s&?#"'<>]+)""")
_SECRET_PARAMETER = re.compile(r"(?i)key|sig|sas|.*signature")
# token=..., "password": "...", api_key: ...
_NAMED = re.compile(r"""([A-Za-z0-9_.-]{1,64})["'\\]{0,4}\s{0,4}[:=]\s{0,4}[\\]{0,2}(["']?)""")
_VALUE = re.compile(r"""(?:(?i:bearer|basic|token)\s{1,4})?[^\s"',;&{}\[\]()]+""")
_QUOTED = {quote: re.compile(rf"[^{quote}\n]{{1,4096}}(?={quote})") for quote in ("'", '"')}
# {"token": ["...", "..."]}: what stands in the brackets, and the texts in it
_BRACKETS, _ITEM = re.compile(r"[\[({][^\])}\n]{0,4096}"), re.compile(r"""[^\s"',;:{}\[\]()\\]+""")
_BEARER = re.compile(r"""(?i)\b(bearer\s{1,4})[^\s"',;<>]{6,}""")
# What is no secret behind a secret name: a word, a tag such as <eos>, or what is masked already
_PLAIN = re.compile(r"[A-Za-z][a-z]*[.:!?]?|<[^<>]*>|\**")
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
# First bytes of packed files -> how to open them
_PACKED = {b"\x1f\x8b\x08": gzip.open, b"BZh": bz2.open, b"\xfd7zX": lzma.open}
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
    words = [word.lower() for word in _NAME_WORD.findall(name)]
    if any(_SECRET_WORD.fullmatch(word) for word in words) or _SECRET_PAIRS.search(" ".join(words)):
        return True
    return any(_is_access_token(words, at) for at in range(len(words)))


def _is_access_token(words: list[str], at: int) -> bool:
    """Return whether the word of a name is "token" in the sense of a login, not of a text."""
    found = _TOKEN.fullmatch(words[at])
    if found is None or not all(_BEHIND_TOKEN.fullmatch(word) for word in words[at + 1 :]):
        return False
    before = found[1] or (words[at - 1] if at else "")
    return before not in _TEXT_TOKENS and not before.isdecimal()


def is_secret_option(word: str) -> bool:
    """Return whether a word of the command line is an option whose value is a secret, abbreviated or not."""
    if not word.startswith("--"):
        return False
    name = word[2:].partition("=")[0].replace("-", "_")
    if is_secret_name(name):
        return True
    is_beginning = len(name) > len("hub_") and any(option.startswith(name) for option in SECRET_OPTIONS)
    return is_beginning and name not in NOT_SECRET_OPTIONS


def environment_secrets() -> dict[str, str]:
    """Return the secrets that the environment and the login of huggingface_hub hold, and where each stands."""
    found = {get_token() or "": "the login of huggingface_hub"}
    for name, value in os.environ.items():
        is_secret = is_secret_name(name) or (name.endswith("_KEY") and _is_key(value))
        if is_secret and name not in NOT_SECRET_VARIABLES:
            found[value] = f"the environment variable {name}"
    return {value: place for value, place in found.items() if _is_long_enough(value)}


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
            found |= _named_secrets(_json_of(value if is_one_word else word))
    return {value for value in found if _is_long_enough(value)} | {*environment_secrets()}


def _recipe_secrets(path: str) -> set[str]:
    """Return the secrets of a YAML file; a file that cannot be read has none here, and the parser refuses it."""
    try:
        recipe = read_yaml(path)
    except ValueError:
        return set()
    found = _named_secrets(recipe)
    if isinstance(recipe, dict) and isinstance(recipe.get("env"), dict):
        found |= {str(value) for value in recipe["env"].values()}
    return found


def _named_secrets(value: Any) -> set[str]:
    """Return all texts below secret names, at any depth; of "Bearer abc" also "abc"."""
    found, seen, pending = set(), set(), [(value, False)]
    while pending:
        part, is_secret = pending.pop()
        if isinstance(part, str):
            if is_secret:
                found |= {part, part.split(" ")[-1]}
        elif isinstance(part, dict | list | tuple) and (id(part), is_secret) not in seen:
            seen.add((id(part), is_secret))
            if isinstance(part, dict):
                pending += [(one, is_secret or is_secret_name(str(name))) for name, one in part.items()]
            else:
                pending += [(one, is_secret) for one in part]
    return found


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


def _is_key(value: str) -> bool:
    return len(value) >= SHORTEST_KEY and bool(re.search(r"[A-Za-z]", value) and re.search(r"[0-9]", value))


def _looks_secret(value: str) -> bool:
    """Return whether a value behind a secret name in a text is to be masked: no short text and no plain word."""
    return len(value) >= SHORTEST_SECRET and not _PLAIN.fullmatch(value)


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
    return _redact_word(value, secrets) if is_text else value


def _redact_named(name: str, value: Any, secrets: Collection[str]) -> Any:
    if name == "env" and isinstance(value, dict):
        return {variable: MASK for variable in value}
    if is_secret_name(name):
        return _mask_leaves(value, is_plural=name.lower().endswith("tokens"))
    if name == "command" and isinstance(value, str):
        return redact_command(value, secrets)
    return redact(value, secrets)


def _mask_leaves(value: Any, is_plural: bool) -> Any:
    """Return what stands below a secret name with its texts masked, and numbers that are no counts."""
    if isinstance(value, dict):
        return {name: _mask_leaves(part, is_plural) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_mask_leaves(part, is_plural) for part in value)
    is_number = isinstance(value, int) and value >= 1000 and not is_plural  # a password of digits, and no count
    return MASK if isinstance(value, str | bytes) or is_number else value


def mask(value: Any, secrets: Collection[str] = ()) -> Any:
    """As `redact`, for a record that stays on this machine: paths are kept."""
    if isinstance(value, dict):
        return {name: _mask_named(str(name), part, secrets) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(mask(part, secrets) for part in value)
    return mask_text(value, secrets) if type(value) is str else value


def _mask_named(name: str, value: Any, secrets: Collection[str]) -> Any:
    is_secret = is_secret_name(name)
    return _mask_leaves(value, name.lower().endswith("tokens")) if is_secret else mask(value, secrets)


def redact_text(text: str, secrets: Collection[str] = ()) -> str:
    """Return the text with secrets masked and absolute local paths shortened."""
    return shorten_paths(mask_text(text, secrets))


def shorten_paths(text: str, shorten: Callable[[str], str] | None = None) -> str:
    """Return the text with absolute local paths shortened, by default by `short_path`."""
    shorten = shorten or short_path
    if _ABSOLUTE.fullmatch(text) and (text.count("/") > 1 or not re.search(r"\s", text)):
        return shorten(text)
    return _PATH_IN_TEXT.sub(lambda found: shorten(found.group()), text)


def _spellings(secret: str) -> set[str]:
    """Return a secret as it is, as in JSON, in an address, in base64 at each alignment, and in hexadecimal."""
    content = secret.encode("utf-8", "surrogateescape")
    spellings = {secret, json.dumps(secret)[1:-1], quote(content, ""), content.hex(), content.hex().upper()}
    for offset in range(3):
        # Characters of whole bytes of the secret only: the others depend on what stands around it
        first, last = -(-8 * offset // 6), 8 * (offset + len(content)) // 6
        encoded = base64.b64encode(bytes(offset) + content).decode()[first:last]
        spellings |= {encoded, encoded.translate(str.maketrans("+/", "-_"))}
    return spellings


def mask_text(text: str, secrets: Collection[str] = ()) -> str:
    """Return the text with secrets masked."""
    spellings = {spelling for secret in secrets for spelling in _spellings(secret)}
    for spelling in sorted(spellings, key=len, reverse=True):
        text = text.replace(spelling, MASK)
    for pattern in _TEXT_PATTERNS:
        text = pattern.sub(MASK, text)
    for pattern in _USER_INFOS:
        text = pattern.sub(_mask_user_info, text)
    text = _PARAMETER.sub(_mask_parameter, text)
    return _mask_named_values(_BEARER.sub(rf"\1{MASK}", text))


def _mask_user_info(found: re.Match) -> str:
    """Mask what stands before the @ of an address, but not a name alone, as in ssh://git@host.

    Over HTTP a name alone is a token: browsers and git ask for the password otherwise.
    """
    scheme = found.string[max(0, found.start() - 5) : found.start()].lower()
    is_secret = ":" in found[2] or _looks_secret(found[2]) or scheme.endswith(("http", "https"))
    return f"{found[1]}{MASK}@" if is_secret else found[0]


def _mask_parameter(found: re.Match) -> str:
    is_secret = _SECRET_PARAMETER.fullmatch(found[2]) or is_secret_name(found[2])
    return found[1] + MASK if is_secret else found[0]


def _mask_named_values(text: str) -> str:
    """Mask the values behind secret names, as in token=..., where they do not look like plain words."""
    parts, at = [], 0
    while found := _NAMED.search(text, at):
        parts.append(text[at : found.end()])
        at = found.end()
        if is_secret_name(found[1]):
            quoted = found[2] and _QUOTED[found[2]].match(text, at)
            if value := quoted or _VALUE.match(text, at) or _BRACKETS.match(text, at):
                is_list = value.re is _BRACKETS
                parts.append(_ITEM.sub(_mask_item, value[0]) if is_list else _mask_item(value))
                at = value.end()
    return "".join([*parts, text[at:]])


def _mask_item(found: re.Match) -> str:
    return MASK if _looks_secret(found[0]) else found[0]


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
    try:
        redacted = redact(given, secrets)
        return word if redacted == given else json.dumps(redacted, ensure_ascii=False)
    except RecursionError:  # nested too deep
        return redact_text(word, secrets)


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
    """Return what kind of secret a file contains, or None: in its bytes, or packed by zip, gzip, bzip2 or xz.

    Args:
        path: any file.
        secrets: values in use, looked for in UTF-8, UTF-16 and UTF-32, base64 and hexadecimal. A mapping says where
            each of them stands (`environment_secrets`), and the result names that.
    """
    values = _values(secrets)
    with open(path, "rb") as file:
        found = _find_in(file, values)
        file.seek(0)
        beginning = file.read(4)
    opens = next((opens for magic, opens in _PACKED.items() if beginning.startswith(magic)), None)
    if found is None and opens is not None:
        try:
            with opens(path) as opened:
                found = _find_in(opened, values)
        except (OSError, EOFError, lzma.LZMAError, zlib.error):
            return "a packed part that cannot be unpacked, and so not be searched"
    is_weights = path.suffix == ".safetensors" and not beginning.startswith(b"PK")
    if found is None and not is_weights and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.flag_bits & ENCRYPTED:
                    return "an encrypted part, which cannot be searched"
                if found is None and member.compress_type != zipfile.ZIP_STORED:
                    with archive.open(member) as opened:
                        found = _find_in(opened, values)
    return found


def _values(secrets: Collection[str]) -> dict[bytes, str]:
    """Return the bytes to look for, and what each of them is.

    Of UTF-16 and UTF-32 it is what both byte orders have in common, if the secret is ASCII.
    """
    values = {}
    for secret in secrets:
        place = f" ({secrets[secret]})" if isinstance(secrets, Mapping) and secrets[secret] else ""
        wide = [secret.encode(f"utf-{bits}-{order}", "replace") for bits in (16, 32) for order in ("le", "be")]
        if secret.isascii():
            wide = [wide[0][:-1], wide[2][:-3]]
        narrow = [spelling.encode("utf-8", "surrogateescape") for spelling in _spellings(secret)]
        values |= dict.fromkeys([*narrow, *wide], f"a token or password in use{place}")
    return values


def _find_in(file: IO[bytes], values: dict[bytes, str]) -> str | None:
    overlap = max([OVERLAP, *map(len, values)])
    kept = b""
    while piece := file.read(PIECE):
        content = kept + piece
        for value, kind in values.items():
            if value in content:
                return kind
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
                if beginning == b"://":
                    return "an address with a password"
                return f"what looks like a token or key ({beginning.decode().strip(' _-.')}...)"
            at = content.find(beginning, at + 1)
    return None
