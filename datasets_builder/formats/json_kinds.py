"""Recognize what a JSON file is: from its content, or from the first and last bytes of a large file."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from gemma_lisa.safety.parsing import parse_json
from gemma_lisa.safety.short_text import listed, shorten

INSTANCES = "a COCO instances file"
NOT_JSON = "not a JSON file"
HEAD = 64 * 1024  # bytes: a file that is not longer is parsed; of others, the first and the last bytes are looked at
RECORDS = 50  # number of records at the start of a list that are looked at
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[][{},]')
_CLOSE = {"[": "]", "{": "}"}
_FOLDER = "read it with --dataset folder"
_EXPORT = "export it as COCO JSON with polygons or masks"


class _Kind(NamedTuple):
    title: str
    advice: str


_PANOPTIC = _Kind("a COCO panoptic file", f"{_FOLDER}, or use its instances file")
_CAPTIONS = _Kind("a COCO captions file", "use the instances file of the same photos")
_KEYPOINTS = _Kind("a COCO keypoints file without masks", "use the instances file of the same photos")
_RESULTS = _Kind("a COCO results file (predictions)", "use the file of the annotations")
_NO_ANNOTATIONS = _Kind("a COCO file of photos without annotations", "use the file of the annotations")
# Keys that must all be at the top level of the file
_OBJECTS = {
    ("shapes", "imagePath"): _Kind("a LabelMe file", _FOLDER),
    ("shapes", "imageHeight"): _Kind("a LabelMe file", _FOLDER),
    ("shapes", "is_sentence"): _Kind("a ReasonSeg file", "use --dataset reason_seg"),
    ("_via_img_metadata",): _Kind("a VIA project", _FOLDER),
    ("_via_settings",): _Kind("a VIA project", _FOLDER),
    ("project", "config", "file", "view"): _Kind("a VIA 3 project", _EXPORT),
    ("image", "annotations"): _Kind("an SA-1B file", _EXPORT),
    ("item", "annotations"): _Kind("a V7 Darwin file", _EXPORT),
    ("categories", "items"): _Kind("a Datumaro file", _FOLDER),
    ("objects", "size"): _Kind("a Supervisely file", _FOLDER),
    ("type", "features"): _Kind("a GeoJSON file", _EXPORT),
    ("log", "version"): _Kind("a log file", _EXPORT),
}
# The same for the records of a list at the top level
_LISTS = {
    ("data", "annotations"): _Kind("a Label Studio JSON export", _FOLDER),
    ("data", "completions"): _Kind("a Label Studio JSON export", _FOLDER),
    ("data", "predictions"): _Kind("a Label Studio JSON export", _FOLDER),
    ("annotation_id", "annotator"): _Kind("a Label Studio JSON-MIN export", _EXPORT),
    ("annotation_id", "lead_time"): _Kind("a Label Studio JSON-MIN export", _EXPORT),
    ("data_row", "projects"): _Kind("a Labelbox export", _EXPORT),
    ("External ID", "Label"): _Kind("a Labelbox export", _EXPORT),
    ("image", "annotations"): _Kind("a CreateML file", _EXPORT),
    ("image_id", "category_id"): _RESULTS,
    ("image_id", "score"): _RESULTS,
    ("ref_id", "sentences"): _Kind("a file of referring expressions", "use --dataset refcoco"),
}
_ADVICE = {kind.title: kind.advice for kind in (*_OBJECTS.values(), *_LISTS.values())}
_ADVICE |= {kind.title: kind.advice for kind in (_PANOPTIC, _CAPTIONS, _KEYPOINTS, _RESULTS, _NO_ANNOTATIONS)}


def kind_of_json(content: Any) -> str | None:
    """Return the kind of a parsed JSON file, such as INSTANCES or "a LabelMe file"; None for an unknown kind.

    A COCO file without annotations counts as INSTANCES if it has the three lists images, annotations and categories.
    """
    if isinstance(content, list):
        return _kind_of_list([record for record in content[:RECORDS] if isinstance(record, dict)])
    if not isinstance(content, dict):
        return None
    has_annotations = _is_list(content, "annotations")
    if has_annotations and (_is_list(content, "images") or _is_list(content, "categories")):
        return _kind_of_annotations(content)
    for keys, kind in _OBJECTS.items():
        if all(key in content for key in keys):
            return kind.title
    if has_annotations and _has(content["annotations"], "image_id"):
        return _kind_of_annotations(content)
    if _is_list(content, "images") and (not content["images"] or _has(content["images"], "file_name")):
        return _NO_ANNOTATIONS.title
    records = [record for record in list(content.values())[:RECORDS] if isinstance(record, dict)]
    if records and all("filename" in record and "regions" in record for record in records):
        return "a VIA annotations file"
    return None


def kind_of_file(path: Path) -> str | None:
    """Return the kind of a JSON file as `kind_of_json` does, or NOT_JSON. Reads at most 2 * HEAD bytes.

    A large file that starts like COCO counts as INSTANCES unless its last bytes show another kind.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD + 1)
            file.seek(max(0, path.stat().st_size - HEAD))
            tail = file.read(HEAD)
    except OSError:
        return NOT_JSON
    if len(head) <= HEAD:
        try:
            return kind_of_json(parse_json(head))
        except ValueError:
            pass  # it can be truncated
    content = _closed(head.decode(json.detect_encoding(head), "ignore").lstrip("\ufeff"))
    if content is None:
        return NOT_JSON
    kind = kind_of_json(content)
    starts_like_coco = isinstance(content, dict) and any(key in content for key in ("images", "info", "categories"))
    if kind in (None, _NO_ANNOTATIONS.title) and starts_like_coco:
        if b'"segments_info"' in tail:
            return _PANOPTIC.title
        if b'"caption"' in tail and b'"segmentation"' not in tail:
            return _CAPTIONS.title
        return INSTANCES
    return kind or (NOT_JSON if len(head) <= HEAD else None)


def describe(content: Any) -> str:
    """Return what a JSON file is and what to do, for the error that it is not a COCO instances file."""
    kind = kind_of_json(content)
    if kind not in (None, INSTANCES):
        return f"it is {kind}; {advice_for(kind)}"
    if isinstance(content, dict):
        return f"its keys are {shorten(listed(content), 100) or 'missing'}"
    return "it is a list" if isinstance(content, list) else "it is a single value"


def advice_for(kind: str) -> str:
    """Return what to do with a file of a kind other than INSTANCES."""
    return _ADVICE.get(kind, _EXPORT)


def _is_list(content: dict, key: str) -> bool:
    return isinstance(content.get(key), list)


def _has(records: list, key: str) -> bool:
    """Return whether one of the first records has a key."""
    return any(isinstance(record, dict) and key in record for record in records[:RECORDS])


def _kind_of_annotations(content: dict) -> str:
    """Return the kind of a file with the lists of COCO."""
    annotations = content["annotations"]
    if _has(annotations, "segments_info"):
        return _PANOPTIC.title
    if not _has(annotations, "segmentation") and not _has(annotations, "category_id") and _has(annotations, "caption"):
        return _CAPTIONS.title
    if not _has(annotations, "segmentation") and _has(annotations, "keypoints"):
        return _KEYPOINTS.title
    return INSTANCES


def _kind_of_list(records: list[dict]) -> str | None:
    for keys, kind in _LISTS.items():
        if records and all(key in record for record in records for key in keys):
            return kind.title
    return None


def _closed(text: str) -> Any:
    """Return the content of a JSON text that is cut off: up to its last complete value, with all brackets closed."""
    opened, cut = [], 0
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark in _CLOSE:
            opened.append(_CLOSE[mark])
        elif mark in "]}":
            if not opened or opened[-1] != mark:
                break
            opened.pop()
        elif mark != ",":
            continue  # a string
        cut = token.start() if mark == "," else token.end()
    closing = "".join(reversed(opened))
    try:
        return parse_json(text[:cut] + closing) if cut else None
    except ValueError:
        return None
