"""Image files for tests: files that are an error, with the expected message, and unusual files that are accepted."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SCENE = ROOT / "docs" / "scene.png"


def png(width: int, height: int, raw: bytes, depth: int = 8, colour_type: int = 2) -> bytes:
    """Return a PNG that declares this size and has these raw rows, even if they do not match."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def huge_png(width: int = 30_000, height: int = 30_000) -> bytes:
    """Return a small PNG that declares a huge size."""
    return png(width, height, b"\0" * 100)


def saved(picture: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=format, **options)
    return buffer.getvalue()


def refusal_of(call):
    """Return the message of the ValueError that a call raises. It must be one line, without warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError) as refusal:
            call()
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


REFUSED_FILES = {
    "text.png": (b"This is no picture.\n" * 20, "image format is not supported"),
    "empty.png": (b"", "is empty"),
    "truncated.png": (SCENE.read_bytes()[:900], "cannot be read"),
    "huge.png": (huge_png(), "more than 25,000,000 pixels"),
    "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "vector graphic"),
    "<img src=x onerror=alert(1)>.png": (b"nothing", "image format is not supported"),
}


def taken_files() -> dict[str, bytes]:
    with Image.open(SCENE) as opened:
        scene = opened.convert("RGB")
    deep = Image.fromarray(np.asarray(scene.convert("L")).astype(np.uint16) * 257)
    turned = scene.transpose(Image.Transpose.ROTATE_90)
    return {
        "animated.gif": saved(scene, "GIF", save_all=True, append_images=[turned, scene]),
        "cmyk.jpg": saved(scene.convert("CMYK"), "JPEG"),
        "deep.png": saved(deep, "PNG"),
        "clear.png": saved(scene.convert("RGBA"), "PNG"),
        "photo.webp": saved(scene, "WEBP"),
    }
