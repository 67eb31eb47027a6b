"""Parse XML files from users with bounded memory: one element at a time, without document types and entities."""

from collections.abc import Callable
from pathlib import Path
from xml.parsers import expat

from gemma_lisa.safety.short_text import reason_of, shorten

ADVICE = "export it again"
# Bytes. Expat parses an attribute again with every chunk until it is complete, and `ParseFile` reads 2 KB at a time
CHUNK = 16 * 2**20
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def parse_xml(
    file: Path,
    on_start: Callable[[str, dict[str, str], int], None],
    on_end: Callable[[str, int], None],
    on_text: Callable[[str], None] | None = None,
    span: tuple[int, int] | None = None,
    close: str = "",
) -> None:
    """Call functions for the elements of an XML file.

    Args:
        file: to read.
        on_start: called with the name of each element, its attributes and its first byte in the file.
        on_end: called with the name of each element and the first byte of its end tag.
        on_text: called with the texts, which can be in parts.
        span: first byte of an element and of its end tag: only this element is read, in UTF-8. None for the whole file.
        close: name of this element.

    Raises:
        ValueError: the file does not exist, is not valid XML, or has a document type, which can define entities.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def refuse(*_) -> None:
        raise ValueError(f"{file} has a document type (<!DOCTYPE>), which is not supported; remove it.")

    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.StartElementHandler = lambda name, attributes: on_start(name, attributes, parser.CurrentByteIndex)
    parser.EndElementHandler = lambda name: on_end(name, parser.CurrentByteIndex)
    if on_text is not None:
        parser.CharacterDataHandler = on_text
    try:
        with file.open("rb") as opened:
            if span is None:
                _check_encoding(opened.read(200), file)
                opened.seek(0)
                while chunk := opened.read(CHUNK):
                    parser.Parse(chunk, False)
                parser.Parse(b"", True)
            else:
                opened.seek(span[0])
                element, end = opened.read(span[1] - span[0]), f"</{close}".encode()
                is_open = opened.read(len(end)) == end  # else <image ... />
                parser.Parse(element + (end + b">") * is_open, True)
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}); {ADVICE}.") from error
    except (expat.ExpatError, LookupError) as error:
        raise ValueError(f"{file} is not valid XML ({reason_of(error)}); {ADVICE}.") from error


def _check_encoding(start: bytes, file: Path) -> None:
    """Raise ValueError for another encoding than UTF-8, in which parts of a file could not be read alone."""
    declaration = start.split(b"?>")[0].lower() if start.lstrip(b"\xef\xbb\xbf").startswith(b"<?xml") else b""
    name = declaration.partition(b"encoding")[2].strip(b" \t\r\n=").split()[:1]
    encoding = name[0].strip(b"\"'").decode("ascii", "replace") if name else "utf-8"
    if start.startswith(UTF_16) or b"\0" in start[:4] or encoding not in ("utf-8", "utf8", "us-ascii", "ascii"):
        raise ValueError(f"{file} must be in UTF-8, got {shorten(encoding, 40)}; save it in UTF-8.")
