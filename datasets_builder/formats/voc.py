"""Read Pascal VOC: masks of classes and objects, as VOC, CVAT ("Segmentation mask 1.1") and Datumaro write them.

    JPEGImages/1.jpg                        photo; also in images/ or elsewhere
    SegmentationClass/1.png                 class of each pixel: a number, or a color of labelmap.txt
    SegmentationObject/1.png                object of each pixel; without it, a class is one object
    ImageSets/Segmentation/train.txt        names of a split; default.txt and a missing list are train
    labelmap.txt or classes.txt             names of the colors or numbers

These can also be one or two folders deeper, such as VOCdevkit/VOC2012/. voc_xml.py reads polygons in Annotations/*.xml.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from gemma_lisa.safety.short_text import listed

from .annotated import AS_SIZE, IGNORED, AnnotatedImage, AnnotatedObject, AnnotationFormat, Notes
from .file_search import visible
from .folder_listing import composed, is_photo, list_files, ordered, read_text, split_of, split_word, without_suffix
from .label_maps import check_interpolation, picture_size, plane_masks
from .voc_colors import (
    VOID_COLOR,
    VOID_NUMBER,
    ClassList,
    Raster,
    class_names_of,
    decide_numbers,
    find_classes,
    read_raster,
)
from .voc_xml import is_voc_xml, read_xml

CLASSES, OBJECTS, LISTS = "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"
PHOTO_FOLDERS = ("JPEGImages", "images", "Images", "image", "")  # the most likely first
MASK_FOLDERS = "segmentation"  # start of the names of all folders with masks
MAX_OBJECTS = 10_000  # of a photo; a mask saved as JPEG can have a million colors

ONE_OBJECT = "masks of classes without a mask of objects; all objects of a class are one"
OTHER_SIZE = "masks of objects with another size than their masks of classes; all objects of a class are one"
UNNUMBERED = "regions with a class but without an object; each is one object of its class"
WITHOUT_PHOTO = "skipped masks without a photo"
WITHOUT_MASK = "skipped photos without a mask"
LISTED_WITHOUT_MASK = "skipped names in lists of splits that have no mask"
UNLISTED = "skipped masks that are in no list of a split"
LISTED_TWICE = "masks that are listed in two splits; they are only in the first"
OTHER_LISTS = "lists whose name is no split; their photos are in train"


def recognizes(root: Path) -> bool:
    """Return whether a folder contains masks or XML files of Pascal VOC."""
    return bool(_places(root)) or is_voc_xml(root)


def _places(root: Path) -> list[Path]:
    """Return the folders that contain SegmentationClass/: the folder itself, or folders up to two levels deeper."""
    level = [root]
    for _ in range(3):
        if found := [folder for folder in level if (folder / CLASSES).is_dir()]:
            return found
        level = [path for folder in level for path in map(folder.joinpath, visible(str(folder))[1])]
    return []


def read(root: Path, notes: Notes) -> dict[str, list[AnnotatedImage]]:
    """Return the photos of each split.

    Raises:
        ValueError: there are no masks, no photos or several data sets, or the files have only boxes.
    """
    places = _places(root)
    files = list_files(root, notes)
    photos = PhotosByStem(files)
    if not places:
        return read_xml(root, files, photos.find, notes)
    splits = {}
    if len(places) > 1:
        splits = {place: split_word(place.name) for place in places}
        if None in splits.values() or len(set(splits.values())) < len(splits):
            names = listed(place.relative_to(root).as_posix() for place in places)
            raise ValueError(f"{root}: {names} are several data sets of Pascal VOC; set data_dir to one of them.")
    found = defaultdict(list)
    for place in places:
        of_place = "" if place == root else f"{composed(place.relative_to(root).as_posix())}/"
        images = _read_place(place, of_place, files, photos, find_classes([place, place.parent, root]), notes)
        for split, image in images:
            found[splits.get(place) or split].append(image)
    if not any(found.values()):
        raise ValueError(
            f"{root}: contains masks of Pascal VOC, but none has its photo; put the photos into JPEGImages/ with the "
            "names of the masks, or export the data set with its images."
        )
    for name in photos.unused:
        notes.add(WITHOUT_MASK, str(files[name]), files[name])
    return ordered(found)


class PhotosByStem:
    """The photos of a data set, by the names of their masks.

    Args:
        files: of the data set, by relative path.
    """

    def __init__(self, files: dict[str, Path]):
        self._files = files
        self._by_stem = defaultdict(list)  # relative paths by the last part without suffix
        self.unused = {}
        for name in files:
            folders = name.lower().split("/")[:-1]
            if is_photo(name) and not any(folder.startswith(MASK_FOLDERS) for folder in folders):
                self._by_stem[without_suffix(name.rpartition("/")[2])].append(name)
                self.unused[name] = None

    def find(self, stem: str, place: str) -> list[Path]:
        """Return the photos that a name can stand for: one, none, or several that are equally likely.

        Args:
            stem: relative path without suffix, as in the masks' folder: "sub/1".
            place: relative path of the folder of the data set, ends with a slash; "" for the root.
        """
        names = self._by_stem.get(stem.rpartition("/")[2], [])
        found = [name for name in names if f"/{without_suffix(name)}".endswith(f"/{stem}")]
        for folder in PHOTO_FOLDERS:
            start = f"{place}{folder}/" if folder else place
            if exact := [name for name in found if without_suffix(name) == start + stem]:
                found = exact
                break
        else:
            found = [name for name in found if name.startswith(place)] or found
        for name in found:
            self.unused.pop(name, None)
        return [self._files[name] for name in found]


def _read_place(
    place: Path,
    of_place: str,
    files: dict[str, Path],
    photos: PhotosByStem,
    classes: ClassList | None,
    notes: Notes,
) -> Iterator[tuple[str, AnnotatedImage]]:
    """Yield the split and the photo of each mask in a data set.

    Args:
        place: the folder of the data set.
        of_place: its relative path as in `PhotosByStem.find`.
        files, photos: of the root.
        classes: the class list.
        notes: counts what was interpreted.
    """
    masks = _stems(files, f"{of_place}{CLASSES}/")
    objects = _stems(files, f"{of_place}{OBJECTS}/")
    if not masks:
        raise ValueError(f"{place / CLASSES}: contains no masks; export the masks as PNG.")
    decide_numbers(classes, masks.values())
    for stem, split in _splits(masks, files, f"{of_place}{LISTS}/", notes).items():
        found = photos.find(stem, of_place)
        if not found:
            notes.add(WITHOUT_PHOTO, str(masks[stem]))
            continue
        reader = _reader(masks[stem], objects.get(stem), classes, found, notes)
        size = picture_size(masks[stem])
        yield split, AnnotatedImage(found[0], str(masks[stem]), stem, reader, size, frame=AS_SIZE if size else "")


def _stems(files: dict[str, Path], folder: str) -> dict[str, Path]:
    """Return the images below a folder by relative path without suffix. folder: relative path with a slash."""
    names = [name for name in files if name.startswith(folder) and is_photo(name)]
    return {without_suffix(name[len(folder) :]): files[name] for name in names}


def _splits(masks: dict[str, Path], files: dict[str, Path], folder: str, notes: Notes) -> dict[str, str]:
    """Return the split of each mask that is in a list, or of all masks if there are no lists.

    folder: relative path of the lists, with a slash.
    """
    lists = [name for name in files if name.startswith(folder) and name.endswith(".txt")]
    if not lists:
        return {stem: split_of(f"{stem}.png") or "train" for stem in masks}
    stems = {name: without_suffix(name[len(folder) :]).lower() for name in lists}
    if set(stems.values()) & {"train", "val", "validation"}:
        lists = [name for name in lists if stems[name] != "trainval"]  # the union of the two
    order = ["train", "validation", "test", None]
    splits = {}
    for name in sorted(lists, key=lambda name: order.index(split_word(stems[name]))):
        split = split_word(stems[name])
        if split is None and stems[name] not in ("default", "trainval"):
            notes.add(OTHER_LISTS, str(files[name]))
        for number, line in enumerate(read_text(files[name]).splitlines(), start=1):
            stem = _listed_stem(line, masks)
            if stem is None:
                if line.strip():
                    notes.add(LISTED_WITHOUT_MASK, f"{files[name]} line {number}")
            elif (before := splits.setdefault(stem, split or "train")) != (split or "train"):
                notes.add(LISTED_TWICE, f"{masks[stem]}: {before} and {split or 'train'}")
    for stem in masks:
        if stem not in splits:
            notes.add(UNLISTED, str(masks[stem]))
    return splits


def _listed_stem(line: str, masks: dict[str, Path]) -> str | None:
    """Return the name of the mask in a line of a list: "1", "sub/1", or a path of the photo and one of the mask."""
    line = composed(line.strip().strip('"'))
    words = [line, *line.split()[:1]]
    for word in words:
        for stem in (word, without_suffix(word), without_suffix(word.rpartition("/")[2])):
            if stem in masks:
                return stem
    return None


def _reader(
    class_file: Path, object_file: Path | None, classes: ClassList | None, photos: list[Path], notes: Notes
) -> Callable[[], list[AnnotatedObject]]:
    """Return `AnnotatedImage.objects` of a mask."""

    def objects() -> list[AnnotatedObject]:
        if len(photos) > 1:
            names = " and ".join(map(str, photos[:2]))
            raise ValueError(f"{class_file}: its photo can be {names}; rename or remove one of them.")
        return _objects(class_file, object_file, classes, photos[0], notes)

    return objects


def _objects(
    class_file: Path, object_file: Path | None, classes: ClassList | None, photo: Path, notes: Notes
) -> list[AnnotatedObject]:
    raster = read_raster(class_file)
    if not raster.is_color:
        check_interpolation(raster.values, class_file, lambda kind: notes.add(kind, str(class_file), photo))
    numbers = _object_numbers(raster, object_file, photo, notes)
    planes = [raster.values] if numbers is None else [raster.values, numbers.values]
    try:
        masks = plane_masks(*planes, limit=MAX_OBJECTS)
    except ValueError as error:
        raise ValueError(f"{class_file}: {error}; save the masks as PNG without smooth edges.") from error
    names = class_names_of(raster, list(dict.fromkeys(key[0] for key in masks)), classes, notes)
    objects, unclear, counts = [], [], defaultdict(int)
    rasters = [raster] if numbers is None else [raster, numbers]

    def place(key: tuple[int, ...]) -> list[int]:
        return [of_key.order_of(value) for of_key, value in zip(rasters, key, strict=True)]

    for key, mask in sorted(masks.items(), key=lambda item: place(item[0])):
        name = names[key[0]]
        if name is None:
            continue
        if name == IGNORED:
            unclear.append(mask)
            continue
        counts[name] += 1
        where = f"{class_file}: {name} {counts[name]}"
        if numbers is not None and _is_no_object(numbers, key[1]):
            notes.add(UNNUMBERED, where, photo)
        objects.append(AnnotatedObject(name, where, mask))
    if unclear:
        objects.append(AnnotatedObject(IGNORED, f"{class_file}: unclear pixels", unclear, crowd=True))
    return objects


def _object_numbers(raster: Raster, object_file: Path | None, photo: Path, notes: Notes) -> Raster | None:
    """Return the mask of objects, or None if a class is one object."""
    if object_file is None:
        notes.add(ONE_OBJECT, str(raster.path), photo)
        return None
    numbers = read_raster(object_file)
    if numbers.values.shape != raster.values.shape:
        notes.add(OTHER_SIZE, str(object_file), photo)
        return None
    return numbers


def _is_no_object(numbers: Raster, value: int) -> bool:
    """Return whether a pixel of a mask of objects is background or unclear."""
    if numbers.is_color:
        return value in (0, VOID_COLOR)
    return value in (0, VOID_NUMBER)


FORMAT = AnnotationFormat("Pascal VOC masks", recognizes, read)
