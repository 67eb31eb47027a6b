"""JSON and YAML of users and data sets, parsed with bounded memory. Every error is a ValueError of bounded length."""

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
# Nodes and characters that a document with aliases can have, per character of its text, and beside that
ALIAS_GROWTH, ALIAS_ALLOWANCE = 4, 100_000
_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def parse_json(
    text: str | bytes,
    object_hook: Callable[[dict], Any] | None = None,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """Return what a JSON text says; bytes can be in any of the UTFs. The hooks are those of `json.loads`.

    Raises:
        ValueError: no JSON, nested too deep, or a number with more digits than Python converts.
    """
    try:
        return json.loads(text, object_hook=object_hook, object_pairs_hook=object_pairs_hook)
    except RecursionError as error:
        raise ValueError("its lists and objects are nested too deep") from error


def csv_delimiter(first_line: str) -> str:
    """Return the delimiter of a CSV file by its first line: comma, semicolon or tab."""
    return max(CSV_DELIMITERS, key=first_line.count)


def json_or_none(text: str) -> Any:
    """Return the list or object that a text is in JSON; None for other texts."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return parse_json(text)
    except ValueError:
        return None


def read_yaml(file: str | Path) -> Any:
    """Return what a YAML file says.

    Raises:
        ValueError: as `parse_yaml`, with the file; a file that does not exist or is not UTF-8.
    """
    try:
        if Path(file).stat().st_size > 4 * MAX_YAML_CHARACTERS:  # of UTF-8, in bytes
            raise ValueError(f"it has more than {MAX_YAML_CHARACTERS:,} characters")
        return parse_yaml(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as YAML ({error}); correct it.") from error


def parse_yaml(text: str) -> Any:
    """Return what a YAML text says; only plain values (`SafeLoader`), and aliases within bounds.

    Raises:
        ValueError: no YAML, a text or a number that is too long, aliases that grow, a key that is given twice.
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
        raise ValueError("its lists and mappings are nested too deep") from error
    except Exception as error:  # on values that do not fit their tags PyYAML raises a dozen different classes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(shorten(reason, 2 * VALUE_LENGTH)) from error


def _check_nodes(root: yaml.Node, limit: int) -> None:
    """Visit every node as often as aliases repeat it, and refuse what grows beyond the limit."""
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
            raise ValueError("its aliases (*name) repeat too much of it; write the values out")


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs as a dict. JSON and YAML would silently keep the last of two with the same key.

    Raises:
        ValueError: a key that is given twice.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"{show(twice)} is there twice")
    return content
