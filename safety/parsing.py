"""Parse JSON and YAML from users with bounded memory. Every error is a ValueError of bounded length."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from .short_text import VALUE_LENGTH, shorten, show

CSV_DELIMITERS = ",;\t"  # spreadsheets write semicolons in countries with a decimal comma
MAX_YAML_CHARACTERS = 1_000_000  # PyYAML parses about 100,000 characters a second
MAX_NUMBER_CHARACTERS = 1_000  # PyYAML takes quadratic time for 1:59:59:…
# Maximum of nodes and characters after expanding aliases: per character of the text, plus a constant
ALIAS_GROWTH, ALIAS_ALLOWANCE = 4, 100_000
_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def parse_json(
    text: str | bytes,
    object_hook: Callable[[dict], Any] | None = None,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """Return the content of a JSON text. Bytes can be UTF-8, UTF-16 or UTF-32. For the hooks see `json.loads`.

    Raises:
        ValueError: the text is not JSON, is nested too deeply, or has a number with too many digits.
    """
    try:
        return json.loads(text, object_hook=object_hook, object_pairs_hook=object_pairs_hook)
    except RecursionError as error:
        raise ValueError("its lists and objects are nested too deeply") from error


def csv_delimiter(first_line: str) -> str:
    """Return the delimiter of a CSV file by its first line: comma, semicolon or tab."""
    return max(CSV_DELIMITERS, key=first_line.count)


def json_or_none(text: str) -> Any:
    """Return the list or object of a JSON text, or None for other texts."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return parse_json(text)
    except ValueError:
        return None


def read_yaml(file: str | Path) -> Any:
    """Return the content of a YAML file.

    Raises:
        ValueError: the file does not exist or is not UTF-8, or see `parse_yaml`. The message names the file.
    """
    try:
        if Path(file).stat().st_size > 4 * MAX_YAML_CHARACTERS:  # bytes of UTF-8
            raise ValueError(f"it has more than {MAX_YAML_CHARACTERS:,} characters")
        return parse_yaml(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as YAML ({error}). Correct the file.") from error


def parse_yaml(text: str) -> Any:
    """Return the content of a YAML text of plain values (`SafeLoader`), with bounded aliases.

    Raises:
        ValueError: the text is not YAML, is too long, has a number that is too long, aliases that expand too much, or a
            key that occurs twice.
    """
    if len(text) > MAX_YAML_CHARACTERS:
        raise ValueError(f"it has more than {MAX_YAML_CHARACTERS:,} characters")
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        if root is None:
            return None
        _check_nodes(root, ALIAS_GROWTH * len(text) + ALIAS_ALLOWANCE)
        return yaml.SafeLoader("").construct_document(root)
    except RecursionError as error:
        raise ValueError("its lists and mappings are nested too deeply") from error
    except Exception as error:  # PyYAML raises a dozen classes for values that do not fit their tags
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(shorten(reason, 2 * VALUE_LENGTH)) from error


def _check_nodes(root: yaml.Node, limit: int) -> None:
    """Raise ValueError if the nodes and characters, with aliases expanded, exceed the limit."""
    pending, size = [root], 0
    while pending:
        node = pending.pop()
        size += 1
        if isinstance(node, yaml.ScalarNode):
            size += len(node.value)
            if node.tag in _NUMBER_TAGS and len(node.value) > MAX_NUMBER_CHARACTERS:
                raise ValueError(f"it has a number of {len(node.value):,} characters")
        elif isinstance(node, yaml.MappingNode):
            each_once([(key.value, None) for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
            for pair in node.value:
                pending += pair
        else:
            pending += node.value
        if size > limit:
            raise ValueError("its aliases (*name) expand to too much text; write the values in place of the aliases")


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs as a dict. The parsers of JSON and YAML would silently keep the last of two equal keys.

    Raises:
        ValueError: a key occurs twice.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"{show(twice)} occurs twice")
    return content
