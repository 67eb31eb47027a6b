"""Write full-scale stand-ins of published data sets in their original formats, for bench_data.py.

Number and size of the files are those of the real data sets, and their content is random. Photos and label maps are
hard links to a few dozen different files, to save disk space.
"""

import json
import os
import pickle
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

COCO_IMAGES, COCO_ANNOTATIONS, COCO_CATEGORIES = 118_287, 860_001, 80  # instances_train2017.json
ADE_IMAGES, ADE_SIZE, ADE_CLASSES = 20_210, (683, 512), 150  # size: (width, height) in pixels
REF_IMAGES, REFS, SENTENCES, REF_ANNOTATIONS = 19_994, 50_000, 142_210, 196_771  # refCOCO, split by UNC
PHOTO_SIZE = (640, 480)  # (width, height) in pixels
PICTURES = 24  # number of different photos and of different label maps
OUTLINES = 4_000  # number of different outlines
CROWD = 86  # one in CROWD annotations is a crowd region, in RLE
JPEG_QUALITY = 95  # gives photos of 160 KB on average, as in COCO


def write_coco(root: Path, scale: float) -> None:
    """Write coco/annotations/instances_train2017.json and its photos, coco/train2017/%012d.jpg."""
    generator = np.random.default_rng(0)
    num_images, num_annotations = round(COCO_IMAGES * scale), round(COCO_ANNOTATIONS * scale)
    names = [f"{number:012d}.jpg" for number in range(1, num_images + 1)]
    _link_photos(root / "coco" / "train2017", names, generator)
    _write_instances(root / "coco" / "annotations" / "instances_train2017.json", names, num_annotations, generator)


def write_ade(root: Path, scale: float) -> None:
    """Write ade20k/images/training/ADE_train_%08d.jpg, and label maps in ade20k/annotations/training."""
    generator = np.random.default_rng(1)
    stems = [f"ADE_train_{number:08d}" for number in range(1, round(ADE_IMAGES * scale) + 1)]
    photos, maps = (root / "ade20k" / kind / "training" for kind in ("images", "annotations"))
    _link_photos(photos, [f"{stem}.jpg" for stem in stems], generator, ADE_SIZE)
    maps.mkdir(parents=True)
    originals = [_label_map(generator) for _ in range(min(PICTURES, len(stems)))]
    _link(maps, [f"{stem}.png" for stem in stems], lambda index, path: originals[index].save(path))


def write_refs(root: Path, scale: float) -> None:
    """Write refer_seg/refcoco/{refs(unc).p, instances.json}, and photos in refer_seg/images/mscoco/images/train2014."""
    generator = np.random.default_rng(2)
    num_images, num_refs = round(REF_IMAGES * scale), round(REFS * scale)
    names = [f"COCO_train2014_{number:012d}.jpg" for number in range(1, num_images + 1)]
    _link_photos(root / "refer_seg" / "images" / "mscoco" / "images" / "train2014", names, generator)
    folder = root / "refer_seg" / "refcoco"
    image_of = _write_instances(folder / "instances.json", names, round(REF_ANNOTATIONS * scale), generator)
    sizes = np.full(num_refs, round(SENTENCES * scale) // num_refs)
    sizes[: round(SENTENCES * scale) - sizes.sum()] += 1
    refs, sentence = [], 0
    for number, size in enumerate(sizes):
        annotation = number * len(image_of) // num_refs
        texts = [f"{side} person in {color}" for side in ("left", "right") for color in ("red", "blue")][: int(size)]
        sentences = [
            {"tokens": text.split(), "raw": text, "sent": text, "sent_id": sentence + at}
            for at, text in enumerate(texts)
        ]
        refs.append(
            {
                "ref_id": number,
                "ann_id": annotation + 1,
                "image_id": int(image_of[annotation]),
                "category_id": 1,
                "split": "val" if number % 13 == 0 else "train",
                "file_name": f"{names[image_of[annotation] - 1][:-4]}_{annotation + 1}.jpg",
                "sent_ids": [item["sent_id"] for item in sentences],
                "sentences": sentences,
            }
        )
        sentence += len(sentences)
    with (folder / "refs(unc).p").open("wb") as file:
        pickle.dump(refs, file, protocol=2)  # the original was written with Python 2


def _write_instances(file: Path, photos: list[str], num_annotations: int, generator: np.random.Generator) -> np.ndarray:
    """Write a COCO instances JSON and return the image id of each annotation, (A,)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    width, height = PHOTO_SIZE
    outlines = [_outline(generator) for _ in range(OUTLINES)]
    runs = {"counts": [100, 2000] * 70 + [height * width - 147_000], "size": [height, width]}
    crowd = (json.dumps(runs), *_box_and_area(coco_mask.frPyObjects(runs, height, width)))
    image_of = np.sort(generator.integers(1, len(photos) + 1, num_annotations))
    kinds, which = (generator.integers(1, top + 1, num_annotations) for top in (COCO_CATEGORIES, OUTLINES))
    with file.open("w", encoding="utf-8") as out:
        out.write('{"info": {"year": 2017}, "licenses": [], "images": [')
        out.write(
            ",".join(
                f'{{"license": 3,"file_name": "{name}","coco_url": "none","height": {height},"width": {width},'
                f'"date_captured": "2013-11-14 11:18:45","flickr_url": "none","id": {number}}}'
                for number, name in enumerate(photos, start=1)
            )
        )
        out.write('],"categories": ')
        categories = range(1, COCO_CATEGORIES + 1)
        json.dump([{"supercategory": "thing", "id": kind, "name": f"thing {kind}"} for kind in categories], out)
        out.write(',"annotations": [')
        for at, (image, kind, outline) in enumerate(zip(image_of, kinds, which, strict=True)):
            is_crowd = at % CROWD == CROWD - 1
            segmentation, box, area = crowd if is_crowd else outlines[outline - 1]
            out.write(
                f'{"," if at else ""}{{"segmentation": {segmentation},"area": {area},'
                f'"iscrowd": {int(is_crowd)},"image_id": {image},"bbox": {box},"category_id": {kind},"id": {at + 1}}}'
            )
        out.write("]}")
    return image_of


def _outline(generator: np.random.Generator) -> tuple[str, str, str]:
    """Return a segmentation of one to three polygons around points in the photo, its box and its area, as JSON."""
    width, height = PHOTO_SIZE
    polygons = []
    for _ in range(1 + (generator.random() < 0.1) + (generator.random() < 0.05)):
        num_points = int(np.clip(generator.lognormal(2.95, 0.65), 4, 200))
        angles = np.sort(generator.uniform(0, 2 * np.pi, num_points))
        radius = min(generator.lognormal(3.5, 0.9), 230) * generator.uniform(0.7, 1, num_points)
        x = np.clip(generator.uniform(0, width) + radius * np.cos(angles), 0, width)
        y = np.clip(generator.uniform(0, height) + radius * np.sin(angles), 0, height)
        polygons.append(np.stack([x, y], axis=1).round(2).ravel().tolist())
    mask = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    return (json.dumps(polygons, separators=(",", ":")), *_box_and_area(mask))


def _box_and_area(mask: dict) -> tuple[str, str]:
    return json.dumps(coco_mask.toBbox(mask).tolist()), str(int(coco_mask.area(mask)))


def _label_map(generator: np.random.Generator) -> Image.Image:
    """Return a label map of about ten classes with ragged borders; 0 is other."""
    coarse = generator.integers(0, ADE_CLASSES + 1, 10)[generator.integers(0, 10, (9, 12))]
    rows, columns = (np.arange(side) for side in ADE_SIZE[::-1])
    ragged = generator.integers(-3, 4, ADE_SIZE[::-1])
    down = np.clip((rows[:, None] + ragged) * 9 // ADE_SIZE[1], 0, 8)
    across = np.clip((columns[None] + ragged.T.reshape(ADE_SIZE[::-1])) * 12 // ADE_SIZE[0], 0, 11)
    return Image.fromarray(coarse[down, across].astype(np.uint8))


def _photo(generator: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Return colored noise that is stronger at low frequencies, as in photos."""
    width, height = size
    total = np.zeros((height, width, 3))
    for octave in range(7):
        coarse = generator.normal(128, 40, ((height >> octave) + 1, (width >> octave) + 1, 3)).clip(0, 255)
        total += 1.5**octave * np.asarray(
            Image.fromarray(coarse.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
        )
    total = (total - total.mean()) / total.std() * 55 + 128
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def _link_photos(
    folder: Path, names: list[str], generator: np.random.Generator, size: tuple[int, int] = PHOTO_SIZE
) -> None:
    folder.mkdir(parents=True)
    originals = [_photo(generator, size) for _ in range(min(PICTURES, len(names)))]
    _link(folder, names, lambda index, path: originals[index].save(path, quality=JPEG_QUALITY))


def _link(folder: Path, names: list[str], write) -> None:
    """Write the first PICTURES files with `write`, and all others as hard links to them in turn."""
    for at, name in enumerate(names):
        if at < PICTURES:
            write(at, folder / name)
        else:
            os.link(folder / names[at % PICTURES], folder / name)
