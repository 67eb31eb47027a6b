"""Mask secrets and shorten absolute local paths in records, texts and commands."""

import json
import re
import shlex
from collections.abc import Collection
from enum import Enum
from pathlib import PurePath
from typing import Any

from .local_paths import short_path, shorten_paths
from .parsing import json_or_none
from .secret_names import TOKEN_PATTERNS, is_secret_name, is_secret_option, looks_secret, spellings_of

MASK = "***"
_TEXT_PATTERNS = [
    re.compile(r"(?<![A-Za-z0-9])" + pattern) for beginning, pattern in TOKEN_PATTERNS.items() if beginning != "://"
]
# https://name:password@host, where the password can contain slashes, and https://token@host
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
# {"token": ["...", "..."]}: the content of the brackets, and the texts in it
_BRACKETS, _ITEM = re.compile(r"[\[({][^\])}\n]{0,4096}"), re.compile(r"""[^\s"',;:{}\[\]()\\]+""")
_BEARER = re.compile(r"""(?i)\b(bearer\s{1,4})[^\s"',;<>]{6,}""")


def redact(value: Any, secrets: Collection[str] = ()) -> Any:
    """Return a copy of nested records without secrets and without absolute local paths.

    Args:
        value: nested dictionaries, lists and texts. Other values are returned unchanged.
        secrets: values to mask wherever they occur (see `secrets_of`).
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
    """Return a value of a secret name with its texts masked, and numbers that can be passwords."""
    if isinstance(value, dict):
        return {name: _mask_leaves(part, is_plural) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_mask_leaves(part, is_plural) for part in value)
    is_number = isinstance(value, int) and value >= 1000 and not is_plural  # can be a password of digits
    return MASK if isinstance(value, str | bytes) or is_number else value


def mask(value: Any, secrets: Collection[str] = ()) -> Any:
    """Return a copy without secrets but with its paths, for a record that stays on this machine."""
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


def mask_text(text: str, secrets: Collection[str] = ()) -> str:
    """Return the text with secrets masked."""
    spellings = {spelling for secret in secrets for spelling in spellings_of(secret)}
    for spelling in sorted(spellings, key=len, reverse=True):
        text = text.replace(spelling, MASK)
    for pattern in _TEXT_PATTERNS:
        text = pattern.sub(MASK, text)
    for pattern in _USER_INFOS:
        text = pattern.sub(_mask_user_info, text)
    text = _PARAMETER.sub(_mask_parameter, text)
    return _mask_named_values(_BEARER.sub(rf"\1{MASK}", text))


def _mask_user_info(found: re.Match) -> str:
    """Mask the text before the @ of a URL, except a name alone, as in ssh://git@host.

    In HTTP URLs a name alone is masked too, because it is usually a token.
    """
    scheme = found.string[max(0, found.start() - 5) : found.start()].lower()
    is_secret = ":" in found[2] or looks_secret(found[2]) or scheme.endswith(("http", "https"))
    return f"{found[1]}{MASK}@" if is_secret else found[0]


def _mask_parameter(found: re.Match) -> str:
    is_secret = _SECRET_PARAMETER.fullmatch(found[2]) or is_secret_name(found[2])
    return found[1] + MASK if is_secret else found[0]


def _mask_named_values(text: str) -> str:
    """Mask the values of secret names, as in token=..., unless they look like plain words."""
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
    return MASK if looks_secret(found[0]) else found[0]


def redact_arguments(arguments: list[str], secrets: Collection[str] = ()) -> list[str]:
    """Return the arguments of a command line with secrets masked and absolute local paths shortened."""
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
    given = json_or_none(word)
    if given is None:
        return redact_text(word, secrets)
    try:
        redacted = redact(given, secrets)
        return word if redacted == given else json.dumps(redacted, ensure_ascii=False)
    except RecursionError:  # nested too deeply
        return redact_text(word, secrets)


def redact_command(command: str, secrets: Collection[str] = ()) -> str:
    """Return a recorded command with secrets masked and absolute local paths shortened."""
    try:
        words = shlex.split(command)
    except ValueError:  # truncated, or not written by shlex
        return redact_text(command, secrets)
    redacted = redact_arguments(words, secrets)
    return command if redacted == words else shlex.join(redacted)
