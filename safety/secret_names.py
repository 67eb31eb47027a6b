"""Recognize secrets by the names of options, variables and recipe keys, and by the patterns of tokens."""

import base64
import json
import os
import re
from typing import Any
from urllib.parse import quote

from huggingface_hub import get_token

from .parsing import json_or_none, read_yaml

# Splits names into words: "hubToken" and "HUB_TOKEN" are "hub token"
_NAME_WORD = re.compile(r"[A-Z0-9]+(?![a-z])|[A-Z]?[a-z0-9]+")
# A word that makes a name secret, alone or as the end of another word, as in "PGPASSWORD"
_SECRET_WORD = re.compile(
    r"\w*(passwords?|passwd|passphrases?|pwd|secrets?|credentials?|(api|access|private|secret)keys?)"
    r"|bearer|authorization|cookies?|jwt|(db|my|pg|ssh|smtp|ftp|mail|proxy|redis|mysql|user|root|admin)pass"
)
_SECRET_PAIRS = re.compile(
    r"\b(api|access|private|secret|auth|encryption|signing|ssh|account|storage|master|deploy) keys?\b"
    r"|\b(db|my|pg|ssh|smtp|ftp|mail|proxy|redis|mysql|user|root|admin|api|git|http|https) pass$|^pass$|\bauth$"
)
# "token" after one of these words means a token of a text. So do "token_type" and "token_ids".
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
# Variables with such names whose values are not secrets
NOT_SECRET_VARIABLES = ("PWD", "OLDPWD", "GPG_KEY")
# Options of train.py whose value is a secret. argparse also accepts unambiguous abbreviations.
SECRET_OPTIONS = ("hub_token", "push_to_hub_token")
NOT_SECRET_OPTIONS = ("push_to_hub", "push_to_hub_model_id", "push_to_hub_organization")
# Minimum length of the secret values that are searched in uploaded files; for words of letters the second
SHORTEST_SECRET, SHORTEST_WORD = 8, 12
# Minimum length of keys. The value of a variable such as PRIMARY_KEY is often the name of a column.
SHORTEST_KEY = 16
# Literal prefix -> pattern that starts there. The prefix makes the search in binary files fast.
# Repetitions are bounded if another follows, so that the search takes linear time.
TOKEN_PATTERNS = {
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
# Values of a secret name that are not secrets: a word, a tag such as <eos>, or an already masked value
_PLAIN = re.compile(r"[A-Za-z][a-z]*[.:!?]?|<[^<>]*>|\**")


def is_secret_name(name: str) -> bool:
    """Return whether the value of an option, variable or key of this name is a secret."""
    words = [word.lower() for word in _NAME_WORD.findall(name)]
    if any(_SECRET_WORD.fullmatch(word) for word in words) or _SECRET_PAIRS.search(" ".join(words)):
        return True
    return any(_is_access_token(words, at) for at in range(len(words)))


def _is_access_token(words: list[str], at: int) -> bool:
    """Return whether a word of a name means a token for access, not a token of a text."""
    found = _TOKEN.fullmatch(words[at])
    if found is None or not all(_BEHIND_TOKEN.fullmatch(word) for word in words[at + 1 :]):
        return False
    before = found[1] or (words[at - 1] if at else "")
    return before not in _TEXT_TOKENS and not before.isdecimal()


def is_secret_option(word: str) -> bool:
    """Return whether an argument is an option, possibly abbreviated, whose value is a secret."""
    if not word.startswith("--"):
        return False
    name = word[2:].partition("=")[0].replace("-", "_")
    if is_secret_name(name):
        return True
    is_beginning = len(name) > len("hub_") and any(option.startswith(name) for option in SECRET_OPTIONS)
    return is_beginning and name not in NOT_SECRET_OPTIONS


def environment_secrets() -> dict[str, str]:
    """Return secret -> its source, for the environment variables and the login of huggingface_hub."""
    found = {get_token() or "": "the login of huggingface_hub"}
    for name, value in os.environ.items():
        is_secret = is_secret_name(name) or (name.endswith("_KEY") and _is_key(value))
        if is_secret and name not in NOT_SECRET_VARIABLES:
            found[value] = f"the environment variable {name}"
    return {value: place for value, place in found.items() if _is_long_enough(value)}


def secrets_of(arguments: list[str]) -> set[str]:
    """Return the secrets of a run: those of its command line, its recipe, and `environment_secrets`.

    Secrets of the recipe are the values of secret names, and all values of its `env:` block that are long enough.
    """
    found = set()
    for at, word in enumerate(arguments):
        name, is_one_word, value = word.partition("=")
        if is_secret_option(word):
            found.add(value if is_one_word else (arguments[at + 1 : at + 2] or [""])[0])
        elif name == "--config":
            found |= _recipe_secrets(value if is_one_word else (arguments[at + 1 : at + 2] or [""])[0])
        else:
            found |= _named_secrets(json_or_none(value if is_one_word else word))
    return {value for value in found if _is_long_enough(value)} | {*environment_secrets()}


def _recipe_secrets(path: str) -> set[str]:
    """Return the secrets of a YAML file, or an empty set for an unreadable file, for which train.py raises."""
    try:
        recipe = read_yaml(path)
    except ValueError:
        return set()
    found = _named_secrets(recipe)
    if isinstance(recipe, dict) and isinstance(recipe.get("env"), dict):
        found |= {str(value) for value in recipe["env"].values()}
    return found


def _named_secrets(value: Any) -> set[str]:
    """Return all texts under secret names, at any depth. For "Bearer abc" this includes "abc"."""
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


def _is_long_enough(value: str) -> bool:
    """Return whether a value is long enough not to occur by chance in files, as "changeme" does."""
    return len(value.strip()) >= (SHORTEST_WORD if value.isalpha() else SHORTEST_SECRET)


def _is_key(value: str) -> bool:
    return len(value) >= SHORTEST_KEY and bool(re.search(r"[A-Za-z]", value) and re.search(r"[0-9]", value))


def looks_secret(value: str) -> bool:
    """Return whether to mask a value of a secret name in a text: it is not short and not a plain word."""
    return len(value) >= SHORTEST_SECRET and not _PLAIN.fullmatch(value)


def spellings_of(secret: str) -> set[str]:
    """Return the spellings of a secret: plain, in JSON, in URLs, in base64 at each alignment, and in hexadecimal."""
    content = secret.encode("utf-8", "surrogateescape")
    spellings = {secret, json.dumps(secret)[1:-1], quote(content, ""), content.hex(), content.hex().upper()}
    for offset in range(3):
        # Only base64 characters that are made of the secret's bytes alone: others depend on the bytes around it
        first, last = -(-8 * offset // 6), 8 * (offset + len(content)) // 6
        encoded = base64.b64encode(bytes(offset) + content).decode()[first:last]
        spellings |= {encoded, encoded.translate(str.maketrans("+/", "-_"))}
    return spellings
