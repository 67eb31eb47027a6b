"""Read COCO panoptic segmentation: a JSON file with the segments of each photo, and PNG files with their ids.

annotations/panoptic_train2017.json         {"images": [...], "annotations": [{"segments_info": [...]}, ...], ...}
annotations/panoptic_train2017/1.png        id of each pixel: R + 256 * G + 256 * 256 * B, 0 for no segment
images/1.jpg                                photo; also in train2017/, images/train2017/ or next to the JSON file
"""

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gemma_lisa.images_gemma_lisa import open_upright
from gemma_lisa.safety.short_text import count_of, listed, name_of, show

from .annotated import AS_SIZE, AnnotatedImage, AnnotatedObject, AnnotationFormat, Notes
from .coco_records import LONGEST_NAME
from .file_search import largest, matching, visible
from .folder_listing import composed, is_photo, list_files, ordered, split_word, without_suffix
from .json_files import read_json
from .label_maps import INDEX_MODES, picture_size, plane_masks

JSON_FOLDERS = ("", "annotations", "Annotations")
SEGMENTS, PANOPTIC = b'"segments_info"', "panoptic"
START = 200_000  # bytes at the start and at the end of a JSON file that `recognizes` reads
MAX_SEGMENTS = 10_000  # of a photo
OWN_FIELDS = ("id", "category_id", "bbox", "area", "iscrowd")

BAD_IMAGE = "skipped images without an id or a file name"
MISSING_IN_PNG = "segments of the JSON file that have no pixel in their PNG file"
MISSING_IN_JSON = "segments of PNG files that are not in the JSON file; their pixels are background"
WITHOUT_SEGMENTS = "photos without an annotation; they have no objects"
WITHOUT_IMAGE = "skipped annotations of photos that are not in the list images"
GREY = "greyscale PNG files whose values were read as ids"


def recognizes(root: Path) -> bool:
    """Return whether a folder contains a panoptic JSON file."""
    return bool(_find_files(root, largest))


def _find_files(root: Path, choose: Callable[[list[Path]], list[Path]] = list) -> list[Path]:
    """Return the panoptic JSON files among those that `choose` returns of each folder."""
    found = []
    for folder in JSON_FOLDERS:
        place = root / folder
        found += [file for file in choose(matching(place, "*.json", visible)) if _is_panoptic(file)]
    return list(dict.fromkeys(found))


def _is_panoptic(file: Path) -> bool:
    """Return whether the start or the end of a file has a key of panoptic segments."""
    try:
        with file.open("rb") as opened:
            start = opened.read(START)
            opened.seek(max(0, file.stat().st_size - START))
            end = opened.read(START)
    except OSError:
        return False
    return SEGMENTS in start or SEGMENTS in end


def read(root: Path, notes: Notes) -> dict[str, list[AnnotatedImage]]:
    """Return the photos of each split.

    Raises:
        ValueError: a JSON file is not valid, or its photos or PNG files do not exist.
    """
    jsons = _find_files(root)
    splits = {file: _split_of(file) for file in jsons}
    if len(jsons) == 1:
        splits = {jsons[0]: splits[jsons[0]] or "train"}
    if None in splits.values() or len(set(splits.values())) < len(splits):
        names = listed(file.relative_to(root).as_posix() for file in jsons)
        raise ValueError(
            f"{root}: cannot tell the splits of {names}; name them panoptic_train.json, panoptic_val.json."
        )
    files = list_files(root, notes)
    return ordered({split: _read_file(root, file, files, notes) for file, split in splits.items()})


def _split_of(file: Path) -> str | None:
    words = re.findall("[a-z]+", file.stem.lower())
    found = {split_word(word) for word in words} - {None}
    return found.pop() if len(found) == 1 else None


def _read_file(root: Path, file: Path, files: dict[str, Path], notes: Notes) -> list[AnnotatedImage]:
    content = read_json(file, "export it again")
    parts = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in parts):
        raise ValueError(f"{file} is not a COCO panoptic file: the lists {', '.join(parts)} must be at its top level.")
    names = _category_names(content["categories"], file)
    images = _images(content["images"], file, notes)
    annotations = defaultdict(list)
    for place, annotation in enumerate(content["annotations"]):
        key = _key(annotation.get("image_id")) if isinstance(annotation, dict) else None
        if key in images:
            annotations[key].append(annotation)
        else:
            notes.add(WITHOUT_IMAGE, f"{file}: the annotation at index {place} of its list")
    if not images:
        raise ValueError(f"{file} contains no images; add some.")
    pngs = _find_folder(root, file, files, _png_names(annotations, images), _png_folders(root, file), "PNG files")
    inside = f"{pngs}/" if pngs else ""
    photos = {name: path for name, path in files.items() if is_photo(name) and not (inside and name.startswith(inside))}
    wanted = [image["file_name"] for image in images.values()]
    folder = _find_folder(root, file, photos, wanted, _photo_folders(root, file), "photos")
    return [
        _image(root, file, image, annotations.get(key, []), (folder, photos), (pngs, files), names, notes)
        for key, image in images.items()
    ]


def _images(records: list, file: Path, notes: Notes) -> dict[str, dict]:
    """Return the records of the photos by id."""
    images = {}
    for place, image in enumerate(records):
        key = _key(image.get("id")) if isinstance(image, dict) else None
        if key is None or not isinstance(image.get("file_name"), str) or not image["file_name"].strip():
            notes.add(BAD_IMAGE, f"{file}: the image at index {place} of its list")
        elif key in images:
            raise ValueError(f"{file}: image {name_of(key)} exists twice; every id must be unique.")
        else:
            images[key] = image
    return images


def _key(number: Any) -> str | None:
    """Return an id as text: 1, 1.0 and "1" are the same. None if it is not an id."""
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int | str) or not str(number).strip():
        return None
    return str(number).strip()


def _category_names(categories: list, file: Path) -> dict[str, str]:
    """Return the names by id, with spaces for underscores."""
    names = {}
    for place, category in enumerate(categories):
        key, name = (_key(category.get("id")), category.get("name")) if isinstance(category, dict) else (None, None)
        if key is None or not isinstance(name, str) or not name.replace("_", " ").strip() or len(name) > LONGEST_NAME:
            raise ValueError(f"{file}: the category at index {place} of its list has no id or no name; add it.")
        if key in names:
            raise ValueError(f"{file}: category {name_of(key)} exists twice; every id must be unique.")
        names[key] = " ".join(name.replace("_", " ").split())
    return names


def _png_names(annotations: dict[str, list[dict]], images: dict[str, dict]) -> list[str]:
    return [_png_name(annotation, images[image]) for image, group in annotations.items() for annotation in group]


def _png_name(annotation: dict, image: dict) -> str:
    """Return the name of the PNG file of an annotation: its file_name, or that of the photo with .png."""
    name = annotation.get("file_name")
    return name if isinstance(name, str) and name else f"{without_suffix(image['file_name'])}.png"


def _relative(root: Path, folder: Path) -> str:
    """Return the relative path of a folder as in `list_files`; "" for the root."""
    return "" if folder == root else composed(folder.relative_to(root).as_posix())


def _png_folders(root: Path, file: Path) -> list[str]:
    """Return the relative paths of folders that PNG files are usually in, the most likely first."""
    places = list(dict.fromkeys([file.parent, root, root / "annotations"]))
    names = (
        file.stem,
        f"{PANOPTIC}_{_suffix(file)}",
        PANOPTIC,
        f"{PANOPTIC}/{_suffix(file)}",
        "panoptic_masks",
        "masks",
    )
    return [_relative(root, place / name) for name in dict.fromkeys(names) for place in places] + [
        _relative(root, place) for place in places
    ]


def _photo_folders(root: Path, file: Path) -> list[str]:
    name = _suffix(file)
    places = [root / "images" / name, root / name, root / name / "images", root / "images", root, file.parent]
    places += [file.parent / "images", root / "JPEGImages"]
    return list(dict.fromkeys(_relative(root, place) for place in places))


def _suffix(file: Path) -> str:
    return file.stem.removeprefix(f"{PANOPTIC}_").removeprefix(PANOPTIC) or "train"


def _find_folder(root: Path, file: Path, files: dict, names: list[str], folders: list[str], kind: str) -> str:
    """Return the relative path of the folder with most of the files: one of `folders`, or any other folder.

    Args:
        root: the data folder.
        file: the JSON file.
        files: by relative path.
        names: of the files, relative to the folder.
        folders: relative paths of likely folders, the most likely first.
        kind: of the files in errors.

    Raises:
        ValueError: none of the files exists.
    """
    names = [composed(name.replace("\\", "/")) for name in names]
    found = {folder: sum(_joined(folder, name) in files for name in names) for folder in folders}
    best = max(found, key=found.get)
    if not found[best] and names:
        counts = defaultdict(int)
        ends = {name.rpartition("/")[2]: name for name in names}
        for path in files:
            name = ends.get(path.rpartition("/")[2])
            if name and path.endswith(f"/{name}"):
                counts[path[: -len(name) - 1]] += 1
        if not counts:
            places = listed(f"{folder}/" for folder in folders if folder)
            raise ValueError(
                f"{file}: none of its {count_of(len(names), kind.removesuffix('s'))}, such as {name_of(names[0])}, is "
                f"in {root}; put them into {places.split(', ')[0]}."
            )
        best = max(counts, key=counts.get)
    return best


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _image(
    root: Path,
    file: Path,
    image: dict,
    annotations: list[dict],
    photos: tuple[str, dict[str, Path]],
    pngs: tuple[str, dict[str, Path]],
    names: dict[str, str],
    notes: Notes,
) -> AnnotatedImage:
    """Return the photo of a record.

    Args:
        root: the data folder.
        file: the JSON file.
        image: the record.
        annotations: of the photo; usually one.
        photos: relative path of their folder, and all photos by relative path.
        pngs: the same of the PNG files.
        names: of the categories by id.
        notes: counts what was interpreted.
    """
    name = image["file_name"]
    where = f"{file}: image {name_of(image['id'])} ({name_of(name)})"
    path = _located(photos, name) or root / photos[0] / Path(name.replace("\\", "/")).name
    files = [(annotation, _png_name(annotation, image)) for annotation in annotations]
    found = [(annotation, png, _located(pngs, png)) for annotation, png in files]

    def objects() -> list[AnnotatedObject]:
        whole = []
        for annotation, png, located in found:
            if located is None:
                raise ValueError(f"{where}: its PNG file {name_of(png)} is not in {root / pngs[0]}; add it.")
            whole += _objects(annotation, located, where, path, names, notes)
        return whole

    if not annotations:
        notes.add(WITHOUT_SEGMENTS, where, path)
    size = next((picture_size(located) for _, _, located in found if located), None)
    fields = {key: value for key, value in image.items() if key not in ("id", "file_name", "width", "height")}
    return AnnotatedImage(path, where, name, objects, size, frame=AS_SIZE if size else "", fields=fields)


def _located(place: tuple[str, dict[str, Path]], name: str) -> Path | None:
    folder, files = place
    return files.get(_joined(folder, composed(name.replace("\\", "/"))))


def _objects(
    annotation: dict, png: Path, where: str, photo: Path, names: dict[str, str], notes: Notes
) -> list[AnnotatedObject]:
    segments, objects = annotation.get("segments_info"), []
    if not isinstance(segments, list):
        raise ValueError(f"{where} has no list segments_info; export the file as COCO panoptic.")
    known = {_key(segment.get("id")) for segment in segments if isinstance(segment, dict)}
    masks = _segment_masks(png, known, notes)
    for place, segment in enumerate(segments):
        number = _key(segment.get("id")) if isinstance(segment, dict) else None
        if number is None:
            raise ValueError(f"{where}: the segment at index {place} of segments_info has no id; add it.")
        here = f"{where}: segment {name_of(number)}"
        category = _key(segment.get("category_id"))
        if category not in names:
            raise ValueError(f"{here}: there is no category {show(segment.get('category_id'))}; add it to categories.")
        mask = masks.pop(number, None)
        if mask is None:
            notes.add(MISSING_IN_PNG, here, photo)
        objects.append(_object(segment, names[category], here, mask))
    for number in masks:
        if number != "0":
            notes.add(MISSING_IN_JSON, f"{png}: id {number}", photo)
    return objects


def _object(segment: dict, name: str, where: str, mask: dict | None) -> AnnotatedObject:
    box, area = segment.get("bbox"), segment.get("area")
    is_box = isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))
    fields = {key: value for key, value in segment.items() if key not in OWN_FIELDS}
    return AnnotatedObject(
        name,
        where,
        mask,
        box=tuple(map(float, box)) if is_box else None,
        area=float(area) if _is_number(area) else None,
        crowd=segment.get("iscrowd") in (1, True),
        fields=fields,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**62


def _segment_masks(png: Path, known: set[str | None], notes: Notes) -> dict[str, dict]:
    """Return the mask of every id in a PNG file, by id as text.

    Args:
        png: the file.
        known: ids in the JSON file, to recognize greyscale files whose values are ids.
        notes: counts these files.

    Raises:
        ValueError: the file cannot be read, or has too many ids.
    """
    picture = open_upright(png)
    if picture.mode in INDEX_MODES and picture.mode != "P":
        grey = np.asarray(picture)
        ids = grey.astype(np.uint32)
        if not {str(number) for number in np.unique(ids).tolist()} & known - {"0"} and picture.mode == "L":
            ids *= 0x010101  # an RGB file that a program saved as greyscale
        else:
            notes.add(GREY, str(png))
    else:
        if picture.mode not in ("RGB", "RGBA", "P"):
            raise ValueError(f"{png}: a panoptic PNG file must be RGB, got mode {picture.mode}; export it again.")
        ids = np.zeros(picture.size[::-1], dtype=np.uint32)
        bands = picture.convert("RGB") if picture.mode == "P" else picture
        for channel in (2, 1, 0):
            ids = ids << 8 | np.asarray(bands.getchannel(channel))
    try:
        masks = plane_masks(ids, limit=MAX_SEGMENTS)
    except ValueError as error:
        raise ValueError(f"{png}: {error}; a panoptic PNG file must not be resized or saved as JPEG.") from error
    return {str(key[0]): mask for key, mask in masks.items()}


FORMAT = AnnotationFormat("COCO panoptic segmentation", recognizes, read)
