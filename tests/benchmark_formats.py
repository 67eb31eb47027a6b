"""Small benchmarks in the formats of ReasonSeg, ReasonSeg-X, RefCOCO and gRefCOCO, with scenes of shapes/easy.

The scenes are those that the checkpoint of examples/shapes-tiny knows.
"""

import io
import json
from pathlib import Path

import numpy as np
from hub_tables import row, write_table
from PIL import Image

from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.rows import decode_mask, load_image
from gemma_lisa.datasets_builder.writers.outlines import outlines

SIDE = 128
PHOTOS = "refer_seg/images/mscoco/images/train2014"
Asked = tuple[str, list[np.ndarray]]  # a question and the mask (H, W) bool of each target


def scenes(count: int) -> list[tuple[Image.Image, list[Asked]]]:
    """Return the image and the questions of test scenes."""
    options = {"image_size": SIDE, "train_rows": 1, "validation_rows": 1, "test_rows": count}
    found = []
    for scene in load_rows("shapes/easy", "test", None, options):
        masks = [[decode_mask(mask, "").astype(bool) for mask in target["masks"]] for target in scene["targets"]]
        texts = [target["texts"][0] for target in scene["targets"]]
        found.append((load_image(scene["image"], scene["source"]), list(zip(texts, masks, strict=True))))
    return found


def write_reason_seg(
    root: Path, drawn: list, split: str = "val", ignore: tuple[int, int, int, int] | None = None
) -> None:
    """Write ReasonSeg: the first question of each scene whose target is in it.

    ignore: (left, top, right, bottom) of an ignore region in every photo, in pixels.
    """
    folder = root / "reason_seg/ReasonSeg" / split
    folder.mkdir(parents=True)
    for number, (image, asked) in enumerate(drawn):
        text, masks = next((text, masks) for text, masks in asked if masks)
        shapes = [_shape("target", ring) for mask in masks for ring in outlines(mask)]
        if ignore is not None:
            left, top, right, bottom = ignore
            shapes.append(_shape("ignore", [[left, top], [right, top], [right, bottom], [left, bottom]]))
        content = {"text": [text], "is_sentence": False, "shapes": shapes}
        (folder / f"{number}_o.json").write_text(json.dumps(content))
        image.save(folder / f"{number}_o.jpg", quality=95)


def _shape(label: str, points) -> dict:
    ring = [[float(min(x, SIDE - 1)), float(min(y, SIDE - 1))] for x, y in points]
    named = {"label": label, "labels": [label], "shape_type": "polygon", "image_name": "x.jpg", "points": ring}
    return {**named, "group_id": None, "group_ids": [None], "flags": {}}


def write_reason_seg_x(root: Path, drawn: list) -> None:
    """Write the test table of ReasonSeg-X: all questions, with the union of their targets."""
    rows = []
    for number, (image, asked) in enumerate(drawn):
        content = io.BytesIO()
        image.save(content, "PNG")
        for text, masks in asked:
            union = np.any(masks, axis=0) if masks else np.zeros((SIDE, SIDE), dtype=bool)
            rows.append(row(f"{number}_o", text, union, content.getvalue()))
    write_table(root / "reason_seg/ReasonSegX_test", rows)


def write_refcoco(root: Path, drawn: list, split: str = "val") -> None:
    """Write RefCOCO: the questions with one target."""
    annotations, refs = _coco(root, drawn, lambda masks: len(masks) == 1)
    records = [{**ref, "ann_id": ref["ann_id"][0], "category_id": 1, "split": split} for ref in refs]
    _write(root / "refer_seg/refcoco", drawn, annotations, "refs(unc).json", records)


def write_grefcoco(root: Path, drawn: list, split: str = "val") -> None:
    """Write gRefCOCO: all questions, with one, several or no targets."""
    annotations, refs = _coco(root, drawn, lambda masks: True)
    records = [
        {
            **ref,
            "ann_id": ref["ann_id"] or [-1],
            "category_id": [1] * len(ref["ann_id"]) or [-1],
            "no_target": not ref["ann_id"],
            "split": split,
        }
        for ref in refs
    ]
    _write(root / "refer_seg/grefcoco", drawn, annotations, "grefs(unc).json", records)


def _coco(root: Path, drawn: list, is_used) -> tuple[list[dict], list[dict]]:
    """Write the photos, and return the annotations and the refs with lists of `ann_id`."""
    (root / PHOTOS).mkdir(parents=True, exist_ok=True)
    annotations, refs = [], []
    for number, (image, asked) in enumerate(drawn, start=1):
        image.save(root / PHOTOS / _name(number), quality=95)
        for text, masks in asked:
            if not is_used(masks):
                continue
            ids = []
            for mask in masks:
                ids.append(len(annotations) + 1)
                rings = [ring.ravel().tolist() for ring in outlines(mask)]
                annotations.append({"id": ids[-1], "image_id": number, "iscrowd": 0, "segmentation": rings})
            sentence = {"sent": text, "raw": text, "tokens": text.split(), "sent_id": len(refs)}
            refs.append({"ref_id": len(refs), "ann_id": ids, "image_id": number, "sentences": [sentence]})
            refs[-1]["file_name"] = _name(number)
    return annotations, refs


def _name(number: int) -> str:
    return f"COCO_train2014_{number:012d}.jpg"


def _write(folder: Path, drawn: list, annotations: list[dict], refs_file: str, refs: list[dict]) -> None:
    folder.mkdir(parents=True)
    images = [
        {"id": number, "file_name": _name(number), "height": SIDE, "width": SIDE} for number in range(1, len(drawn) + 1)
    ]
    known = [{**annotation, "category_id": 1, "bbox": [0, 0, 1, 1], "area": 1} for annotation in annotations]
    content = {"images": images, "annotations": known, "categories": [{"id": 1, "name": "shape"}]}
    (folder / "instances.json").write_text(json.dumps(content))
    (folder / refs_file).write_text(json.dumps(refs))
