"""Find the classes in the names of mask files: masks/1_cat.png or masks/1/cat.png."""

import re
from collections.abc import Iterable

from gemma_lisa.datasets_builder.class_names import clean, unite_names
from gemma_lisa.datasets_builder.formats.annotated import Notes
from gemma_lisa.datasets_builder.formats.folder_listing import composed
from gemma_lisa.safety.short_text import show

from .folder_files import Photo

# Words of programs and data sets for masks as such, without separators and in lower case
MASK_WORDS = {"mask", "masks", "msk", "seg", "segm", "segmap", "segmentation", "segmentations", "gt", "groundtruth"}
MASK_WORDS |= {"matte", "labelid", "labelids", "labelmap", "trainid", "trainids", "anno", "annotation", "annotations"}
# Only without another word: "label" is also a thing, and "color chart" a class
TECHNICAL_WORDS = MASK_WORDS | {"label", "labels", "lbl", "ann", "l", "p", "alpha", "binary", "bin", "bw", "color"}
TECHNICAL_WORDS |= {"colour", "colors", "colored", "instance", "instances", "instanceid", "instanceids", "object"}
TECHNICAL_WORDS |= {"objects", "obj", "fg", "foreground", "semantic", "panoptic", "id", "ids", "ground", "truth"}
TECHNICAL_WORDS |= {"gtfine", "gtcoarse", "fine", "coarse", "target", "output", "pred", "prediction", "result", "image"}
TECHNICAL_WORDS |= {"img", "manual", "final", "roi", "class", "map", "train", "watershed", "inst", "sem"}
WORD_OR_NUMBER = re.compile(r"[^\W_]")
WORD = re.compile(r"[^\W\d_]+")
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
HEX = re.compile(r"[0-9a-f]+", re.IGNORECASE)
WORD_AND_NUMBER = re.compile(r"[^\W\d_]{2,}[\W_]*\d*")
MIN_HASH = 4  # characters
MIN_SWITCHES = 3  # between letters and digits, in names such as x7Gk2p
TEXT_WINS = "mask files with a name that is not used, because the option text is set"
PART_OF_NAME = "mask files whose class contains a word for masks (rename them if it is not part of the class)"
REMOVED_WORD = "mask files whose class is without a word for masks"


def name_masks(
    splits: dict[str, list[Photo]], names: dict[str, dict[int, str]], text: str | None, notes: Notes
) -> None:
    """Replace the rest of each mask's file name in `Photo.masks` by its class, or by None if it names no class.

    Args:
        splits: photos of each split.
        names: class names by number, of each split; {} if there are none.
        text: the option text. Without class names by number, it is the only class.
        notes: get a case for everything that is interpreted.
    """
    photos = [photo for split, of_split in splits.items() if not names[split] for photo in of_split]
    rests = [rest for photo in photos for rest, _ in photo.masks if rest is not None]
    hashes = _hashes(rests)
    named = [rest for rest in rests if rest not in hashes and not is_technical(rest)]
    if text is not None:
        for photo in photos:
            for rest, path in photo.masks:
                if rest in named:
                    notes.add(TEXT_WINS, str(path), photo.path)
        named = []
    word = _common_word(named)
    short = {rest: _without(rest, word) for rest in named}
    classes = unite_names([short[rest] for rest in named], numbered=True, notes=notes)
    for photo in photos:
        for rest, path in photo.masks:
            if rest in short and word:
                notes.add(REMOVED_WORD, f"{show(word)} in {path}", photo.path)
            elif rest in short and MASK_WORDS & set(_words(rest)):
                notes.add(PART_OF_NAME, str(path), photo.path)
        photo.masks = [(classes[short[rest]] if rest in short else None, path) for rest, path in photo.masks]
    for split, of_split in splits.items():
        if names[split]:
            known = {name.casefold() for name in names[split].values()}
            for photo in of_split:
                photo.masks = [(_of_list(rest, path, names[split], known), path) for rest, path in photo.masks]


def _of_list(rest: str | None, path: object, names: dict[int, str], known: set[str]) -> str | None:
    """Return the class of a mask file if class names are listed; a number of the list, a name, or None."""
    if rest is None or clean(rest).casefold() in known:
        return None if rest is None else clean(rest)
    if rest.isdecimal():
        # An unknown number is the error of its photo, which `MaskReader` raises
        return names.get(int(rest[:10]), rest)
    return None if is_technical(rest) or _is_hash(rest) else clean(rest)


def is_number_map(rest: str | None) -> bool:
    """Return whether a mask file with this rest of its name contains the numbers of several classes."""
    return rest is None or is_technical(rest) or _is_hash(rest)


def is_technical(rest: str) -> bool:
    """Return whether a name has only words for masks as such: "labelIds", "gtFine_color", "Mask 2"."""
    words = _words(rest)
    return bool(words) and all(word in TECHNICAL_WORDS for word in words)


def check_versions(photo: Photo) -> None:
    """Raise an error if a photo has several masks that data sets write as versions of one mask.

    These are, for example, 1.png and 1_color.png. "1_mask_1.png" and "1_mask_2.png" are parts of one mask.
    """
    versions = {}
    for name, path in photo.masks:
        rest = composed(path.stem).removeprefix(photo.stem.rpartition("/")[2]) if name is None else "x"
        if not WORD_OR_NUMBER.search(rest) or is_technical(rest):
            versions.setdefault(tuple(_words(rest)), path)
    if len(versions) > 1:
        one, other = list(versions.values())[:2]
        raise ValueError(f"{other}: {one.name} is also a mask of {photo.path.name}; keep one of the two.")


def _words(rest: str) -> list[str]:
    together = "".join(WORD.findall(rest)).lower()
    if together in TECHNICAL_WORDS:
        return [together]
    return [part for word in WORD.findall(rest) for part in _parts(word)]


def _parts(word: str) -> list[str]:
    """Return the words in "labelIds"."""
    return [word.lower()] if word.lower() in TECHNICAL_WORDS else CAMEL.sub(" ", word).lower().split()


def _is_hash(rest: str) -> bool:
    """Return whether a name is a number, or random characters such as 0001f, x7Gk2p and a UUID."""
    together = re.sub(r"[\W_]", "", rest)
    if not together or not together.isascii():
        return together.isdecimal()
    if together.isdigit():
        return True
    if len(together) < MIN_HASH or WORD_AND_NUMBER.fullmatch(rest):
        return False
    switches = len(re.findall(r"(?<=\d)(?=\D)|(?<=\D)(?=\d)", together))
    return bool(HEX.fullmatch(together) and switches) or switches >= MIN_SWITCHES


def _hashes(rests: Iterable[str]) -> set[str]:
    """Return the names that are no words. If most are random, those like "abc123" and "deadbeef" are too."""
    distinct = set(rests)
    found = {rest for rest in distinct if _is_hash(rest)}
    if len(found) * 2 > len(distinct):
        found |= {rest for rest in distinct if HEX.fullmatch(rest) and len(rest) >= MIN_HASH}
    return found


def _common_word(named: list[str]) -> str:
    """Return the word for masks that all of several classes start or end with, or ""."""
    if len({clean(rest).casefold() for rest in named}) < 2:
        return ""
    for word in MASK_WORDS:
        if all((words := _words(rest))[-1:] == [word] or words[:1] == [word] for rest in named):
            return word
    return ""


def _without(rest: str, word: str) -> str:
    """Return a class without a word at its start or end."""
    if not word:
        return rest
    return re.sub(rf"^{word}[\W_]+|[\W_]*(?<![^\W_]){word}\d*$|{word}$", "", rest, flags=re.IGNORECASE) or rest
