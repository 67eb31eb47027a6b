"""Compare what readers of annotation formats return with masks that tests draw."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from gemma_lisa.datasets_builder.formats.annotated import AnnotatedImage, AnnotatedObject, AnnotationFormat, Notes
from gemma_lisa.datasets_builder.formats.coco_segmentation import segmentation_runs


def read(form: AnnotationFormat, root) -> tuple[dict[str, list[AnnotatedImage]], dict[str, int]]:
    """Return the photos of each split, whose objects are read, and the number of cases of each note."""
    notes = Notes()
    assert form.recognizes(root)
    splits = form.read(root, notes)
    for images in splits.values():
        for image in images:
            objects = image.objects()
            image.objects = lambda objects=objects: objects
    return splits, {kind: len(cases) for kind, cases in notes.cases.items()}


def names(splits) -> dict[str, list[str]]:
    """Return the file names of the photos of each split."""
    return {split: [image.path.name for image in images] for split, images in splits.items()}


def refusal(form: AnnotationFormat, root) -> str:
    """Return the error of reading a folder, which must be one line."""
    with pytest.raises(ValueError) as refused:
        form.read(root, Notes())
    assert "\n" not in str(refused.value)
    return str(refused.value)


def mask_of(annotated: AnnotatedObject, image: AnnotatedImage, size: tuple[int, int]) -> np.ndarray:
    """Return the mask (H, W) bool of an object in a photo of this size (height, width)."""
    parts = annotated.segmentation if isinstance(annotated.segmentation, list) else [annotated.segmentation]
    if image.normalized:
        scale = np.array([size[1], size[0]])
        parts = [(np.reshape(part, (-1, 2)) * scale).ravel().tolist() for part in parts]
    return coco_mask.decode(segmentation_runs(parts, size, "test")).astype(bool)


def masks_by_name(image: AnnotatedImage, size: tuple[int, int]) -> dict[str, list[np.ndarray]]:
    """Return the masks of each class in a photo, in the order of its objects."""
    masks = {}
    for annotated in image.objects():
        masks.setdefault(annotated.name, []).append(mask_of(annotated, image, size))
    return masks


def box(left, top, right, bottom, size=(6, 8)) -> np.ndarray:
    """Return the mask (H, W) bool of the pixels left..right - 1 and top..bottom - 1."""
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask
