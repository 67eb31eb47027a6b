"""Tables of photos, questions and masks in the format of ReasonSeg-R and ReasonSeg-X, for tests."""

import io
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

BOOLS = datasets.List(datasets.List(datasets.Value("bool")))
FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "text": datasets.Value("string"),
        "mask": BOOLS,
        "image_id": datasets.Value("string"),
        "ann_id": datasets.Value("string"),
        "img_height": datasets.Value("int64"),
        "img_width": datasets.Value("int64"),
    }
)
KINDS = datasets.Features({**FEATURES, "reasoning_type": datasets.Value("string")})


def photo_bytes(size: tuple[int, int] = (12, 8), color: int = 0, **options) -> bytes:
    """Return the content of a grey JPEG of (width, height) pixels."""
    content = io.BytesIO()
    Image.new("L", size, color).save(content, "JPEG", **options)
    return content.getvalue()


def box(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = (8, 12)) -> np.ndarray:
    """Return a mask (H, W) bool of a rectangle; bottom and right are excluded."""
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def row(name: str, text: str, mask: np.ndarray, content: bytes | None = None, **more) -> dict:
    """Return a row of FEATURES, or of KINDS with `reasoning_type`."""
    height, width = mask.shape
    shown = {"bytes": photo_bytes((width, height)) if content is None else content, "path": f"{name}.jpg"}
    known = {"image": shown, "text": text, "mask": mask.tolist(), "image_id": name, "ann_id": name}
    return {**known, "img_height": height, "img_width": width, **more}


def write_table(folder: Path, rows: list[dict], features: datasets.Features = FEATURES, shards: int = 1) -> None:
    """Write rows as Parquet shards, as `push_to_hub` names them."""
    table = datasets.Dataset.from_list(rows, features=features)
    (folder / "data").mkdir(parents=True)
    for shard in range(shards):
        name = f"test-{shard:05d}-of-{shards:05d}.parquet"
        table.shard(shards, shard, contiguous=True).to_parquet(folder / "data" / name)
