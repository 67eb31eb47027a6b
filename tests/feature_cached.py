"""Shared by the tests of the feature cache: rows of small photos, and counted images of the encoders."""

import io
from collections import Counter
from contextlib import contextmanager

import numpy as np
from datasets import Dataset
from PIL import ExifTags, Image

from gemma_lisa.datasets_builder.rows import ROW_FEATURES, encode_mask, new_row, new_target
from gemma_lisa.feature_cache.encoders import GEMMA, SAM, open_cache

BOTH = [GEMMA, SAM]
SIZE = (40, 24)  # (height, width) in pixels of the upright photo, which is stored sideways


def photo(seed):
    """Return the bytes of a JPEG file with noise, stored sideways."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "JPEG", exif=exif)
        return file.getvalue()


def row(seed, image="photo"):
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[:20, seed % 10 :] = 1
    targets = [new_target(["the object"], [encode_mask(mask)]), new_target(["the other"], [])]
    content = photo(seed) if image == "photo" else image
    return new_row(content, f"photos/{seed}", targets)


def text_row():
    return new_row(None, "words", [], [{"question": "What is one and one?", "answer": "Two."}])


def rows_of(seeds, more=()):
    return Dataset.from_list([*(row(seed) for seed in seeds), *more], features=ROW_FEATURES)


def all_of(rows):
    return [(rows, np.arange(len(rows)))]


def cache_of(folder, small, encoders=BOTH):
    return open_cache(folder, *small, encoders)


def files_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@contextmanager
def counted_encoders(model):
    """Count the images that both encoders get inside the block."""
    calls = Counter()
    modules = {"sam": model.sam.vision_encoder, "gemma": model.model.vision_tower}

    def count(name, given, named):
        calls[name] += len(given[0] if given else named["pixel_values"])

    hooks = [
        module.register_forward_pre_hook(lambda _, *given, name=name: count(name, *given), with_kwargs=True)
        for name, module in modules.items()
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
