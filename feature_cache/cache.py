"""FeatureCache: finds and reads the cached features of images.

    FOLDER/sam-0123456789abcdef/9f/9f86….features       SAM's encoding, (256, 64, 64)
    FOLDER/gemma-fedcba9876543210/9f/9f86….features     Gemma's image features, (256, D)

The names of the subfolders contain the fingerprint of the encoder, those of the files the hash of the image's file. So
a changed encoder or image is not found, and several models and runs can share a folder.
"""

import hashlib
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gemma_lisa.datasets_builder.rows import CachedImage, content_of
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor

from .entries import DamagedEntry, Sizes, entry_bytes, read_entry, read_sizes, write_entry

logger = logging.getLogger(__name__)

GIGABYTE = 1_000_000_000
PARTIAL = "partial"  # subfolder for unfinished files
SUFFIX = ".features"


@dataclass(frozen=True)
class Store:
    """The entries of one encoder.

    Args:
        name: name of the features as an input of the model, "image_features" or "image_embeddings".
        pixels: name of the input that they replace, "pixel_values" or "sam_pixel_values".
        folder: folder with the fingerprint of the encoder in its name.
        shape: of the features of one image.
    """

    name: str
    pixels: str
    folder: Path
    shape: tuple[int, ...]

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}{SUFFIX}"


@dataclass
class FeatureCache:
    """The cached features of a model's frozen encoders. It can be copied to data loader workers.

    Args:
        folder: folder of the cache.
        stores: one for each encoder whose features are cached.
        must_be_complete: raise an error if features are missing, because an engine needs the same modules on all ranks.
    """

    folder: Path
    stores: list[Store]
    must_be_complete: bool = False
    _announced: set[Path] = field(default_factory=set)

    @property
    def entry_bytes(self) -> int:
        """Size in bytes of the entries of one image."""
        return sum(entry_bytes(store.shape) for store in self.stores)

    def find(self, image: Any, source: str) -> CachedImage | None:
        """Return an image without decoding it, or None if its features are not cached.

        Args:
            image: as in `load_image`.
            source: of the row, for errors.
        """
        content = content_of(image)
        if content is None:
            return None
        key = key_of(content)
        sizes = self.sizes_of(key)
        return None if sizes is None else CachedImage(image, source, key, *sizes.original)

    def sizes_of(self, key: str) -> Sizes | None:
        """Return the sizes of an image, or None if the features of an encoder are missing or visibly damaged."""
        sizes = None
        for store in self.stores:
            sizes = self._read(store, key, read_sizes)
            if sizes is None:
                return None
        return sizes

    def read(self, images: list[CachedImage]) -> dict[str, torch.Tensor] | None:
        """Return the features (I, …) of images in bf16, and their sizes; None if an entry is missing or damaged.

        Returns:
            `image_features` and `image_embeddings`, those that are cached; original_sizes and reshaped_input_sizes,
            (I, 2).
        """
        features: dict[str, list[torch.Tensor]] = {store.name: [] for store in self.stores}
        sizes = []
        for image in images:
            for store in self.stores:
                entry = self._read(store, image.key, read_entry)
                if entry is None:
                    return None
                features[store.name].append(entry[1])
            sizes.append(entry[0])
        read = {name: torch.stack(parts) for name, parts in features.items()}
        read["original_sizes"] = torch.tensor([size.original for size in sizes])
        read["reshaped_input_sizes"] = torch.tensor([size.reshaped for size in sizes])
        return read

    def of_no_image(self) -> dict[str, torch.Tensor]:
        """Return features (0, …), with which the model runs the same modules as in a batch with images."""
        return {store.name: torch.zeros(0, *store.shape, dtype=torch.bfloat16) for store in self.stores}

    def write(self, key: str, features: dict[str, torch.Tensor], sizes: Sizes) -> None:
        """Write the entries of an image. features: those of each store, by name.

        Raises:
            OSError: an entry cannot be written.
        """
        for store in self.stores:
            write_entry(store.path(key), features[store.name], sizes, self.folder / PARTIAL)

    def _read(self, store: Store, key: str, reader):
        """Return what the reader returns, or None if the entry is damaged; it is then deleted, to be computed again."""
        path = store.path(key)
        try:
            return reader(path, store.shape)
        except (DamagedEntry, OSError) as error:
            if path not in self._announced:
                self._announced.add(path)
                is_damaged = isinstance(error, DamagedEntry)
                what, reason = ("is damaged", error) if is_damaged else ("cannot be read", error.strerror)
                logger.warning("%s %s (%s). The image is encoded again.", path, what, reason)
            if isinstance(error, DamagedEntry):
                _delete(path)
            return None


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:  # in a cache that cannot be written
        logger.debug("%s cannot be deleted: %s", path, error)


def key_of(content: bytes) -> str:
    """Return the key of an image for the content of its file."""
    return hashlib.sha256(content).hexdigest()


def image_inputs(
    cache: FeatureCache | None,
    processor: GemmaLisaProcessor,
    images: list[Any],
    with_sam: bool = True,
    as_bytes: bool = False,
) -> dict[str, torch.Tensor]:
    """Return the model's inputs for the images of a batch.

    These are cached features if those of all images are found; otherwise the pixels of all images.

    Args:
        cache: None for pixels.
        processor: processor of the model.
        images: PIL images and `CachedImage`s.
        with_sam, as_bytes: as in `encode_images`.

    Raises:
        ValueError: features are missing, but the cache must be complete; or see `load_rgb`.
    """
    if cache is not None and not images:
        return cache.of_no_image()
    if not images:
        return {}
    found = None
    if cache is not None and all(isinstance(image, CachedImage) for image in images):
        found = cache.read(images)
    if cache is not None and cache.must_be_complete and found is None:
        raise ValueError(
            f"{cache.folder}: the features of an image are missing or damaged. Repeat the command: it computes them "
            "before the training starts."
        )
    if found is not None and not with_sam:
        del found["original_sizes"], found["reshaped_input_sizes"]
    replaced = {store.pixels for store in cache.stores} if found is not None else set()
    needed = {"pixel_values", "sam_pixel_values"} if with_sam else {"pixel_values"}
    if needed <= replaced:
        return found
    shown = [image.lazy() if isinstance(image, CachedImage) else image for image in images]
    encoded = processor.encode_images(shown, with_sam=with_sam, as_bytes=as_bytes)
    return {name: value for name, value in encoded.items() if name not in replaced} | (found or {})
