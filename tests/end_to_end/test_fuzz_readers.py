"""Readers of data sets and users' files return plain rows for random content, or raise a short ValueError."""

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from fuzzing import budget, damaged, leaves, result_or_refusal, values
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gemma_lisa.datasets_builder.custom.folder_classes import class_names, read_classes
from gemma_lisa.datasets_builder.custom.folder_tables import COLUMNS, read_questions
from gemma_lisa.datasets_builder.formats import coco_files
from gemma_lisa.datasets_builder.formats.annotated import Notes
from gemma_lisa.datasets_builder.formats.coco_files import path_inside, read_coco
from gemma_lisa.datasets_builder.formats.frames import frames_of
from gemma_lisa.datasets_builder.formats.json_files import read_json, read_records
from gemma_lisa.datasets_builder.formats.labelme import annotated_image
from gemma_lisa.datasets_builder.formats.object_masks import object_masks
from gemma_lisa.datasets_builder.formats.refs_files import read_instances, read_refs
from gemma_lisa.datasets_builder.mixture import sets_of
from gemma_lisa.interfaces import image_inputs

pytestmark = [
    pytest.mark.fuzz,
    # raised inside pycocotools with NumPy 2
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

cells = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=15),
    st.sampled_from(["1.jpg", "a,b", '"q"', "a\nb", ";", "\t", "{seg}", "val", "", "\ufeff", "\x00", "a\r\nb", "\r"]),
)
headers = st.permutations(list(COLUMNS)).flatmap(lambda names: st.integers(2, 7).map(lambda count: names[:count]))
tables = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=120).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(cells, max_size=12).map(lambda row: ("image,question\n" + ",".join(row)).encode()),
    values.map(lambda value: json.dumps(value).encode()),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    Image.new("RGB", (32, 32)).save(folder / "p.png")
    with pytest.MonkeyPatch.context() as patch:  # a collection takes 100 ms with torch loaded
        patch.setattr(coco_files, "gc", SimpleNamespace(collect=lambda: 0, freeze=lambda: None))
        yield folder


def written(folder: Path, name: str, content) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


@budget()
@given(headers, st.lists(st.lists(cells, min_size=7, max_size=7), max_size=5), st.sampled_from(",;\t"), st.booleans())
def test_every_line_of_a_table_is_a_question_or_an_error(folder, header, rows, delimiter, quoted):
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
    writer.writerows([header, *(row[: len(header)] for row in rows)])
    found = result_or_refusal(lambda: read_questions(written(folder, "questions.csv", text.getvalue().encode())))
    if isinstance(found, ValueError) or not {"image", "question"} <= set(header):
        return
    questions, errors = found
    filled = [row for row in rows if any(cell.strip() for cell in row[: len(header)])]
    assert len(questions) + len(errors) == len(filled)
    pairs = {(row[header.index("image")].strip(), row[header.index("question")].strip()) for row in filled}
    assert {(question.image, question.question) for question in questions} <= pairs


@budget()
@given(tables, st.sampled_from(["csv", "jsonl"]))
def test_any_table_is_read_or_refused(folder, content, suffix):
    result_or_refusal(lambda: read_questions(written(folder, f"questions.{suffix}", content)))
    result_or_refusal(lambda: image_inputs.read_table(written(folder, f"table.{suffix}", content)))


def labelme_masks(file, photo):
    image, notes = annotated_image(file, photo, Notes()), Notes()
    [frame] = frames_of([image], "auto", "set", notes)
    if isinstance(frame, ValueError):
        raise frame
    errors = []
    for one in object_masks(image, frame, "ignore", notes, errors.append):
        assert one.mask is None or one.mask["size"] == list(frame.size)
    assert all("\n" not in str(error) for error in errors)


@budget(0.5)
@given(st.one_of(values, damaged(values.map(lambda value: json.dumps(value).encode()))))
def test_any_json_is_read_or_refused_by_every_reader(folder, content):
    file = written(folder, "a.json", content)
    for read in (read_json, read_records, read_coco, read_refs, read_instances, read_classes):
        result_or_refusal(lambda read=read: read(file))
    result_or_refusal(lambda: labelme_masks(file, folder / "p.png"))


@budget()
@given(values)
def test_any_classes_and_any_mixture_are_read_or_refused(content):
    names = result_or_refusal(lambda: class_names(content, "classes"))
    if not isinstance(names, ValueError):
        assert names and all(isinstance(number, int) and name for number, name in names.items())
    if isinstance(content, dict):
        result_or_refusal(lambda: sets_of(content))


ids = st.one_of(st.integers(0, 3), st.sampled_from(["1", None, True, 1.5]), st.just([]))
records = st.fixed_dictionaries(
    {
        "images": st.lists(
            st.fixed_dictionaries({"id": ids, "file_name": leaves, "height": leaves, "width": st.just(32)}), max_size=3
        ),
        "annotations": st.lists(
            st.fixed_dictionaries({"id": ids, "image_id": ids, "category_id": ids, "iscrowd": leaves}), max_size=4
        ),
        "categories": st.lists(st.fixed_dictionaries({"id": ids, "name": leaves}), max_size=3),
    }
)


@budget(0.5)
@given(records)
def test_coco_records_are_read_or_refused_with_valid_ids(folder, content):
    file = written(folder, "c.json", content)
    found = result_or_refusal(lambda: read_coco(file, lambda error: None))
    if isinstance(found, ValueError):
        return
    images, annotations, names, _ = found
    assert {image["id"] for image in images} >= {number for number in annotations if annotations[number]}
    assert all(one["category_id"] in names for same in annotations.values() for one in same)


shapes = st.fixed_dictionaries(
    {
        "label": st.one_of(st.sampled_from(["a", "__ignore__"]), leaves),
        "shape_type": st.one_of(st.sampled_from(["polygon", "rectangle", "circle", "mask", "line", None]), leaves),
        "points": st.one_of(
            st.lists(st.lists(st.one_of(st.integers(-3, 40), st.floats()), min_size=2, max_size=2), max_size=5), values
        ),
        "mask": st.one_of(st.none(), st.text(max_size=30), leaves),
    }
)


@budget()
@given(st.lists(shapes, max_size=3), st.one_of(st.just(32), leaves), st.one_of(st.just(32), leaves))
def test_any_shapes_of_labelme_are_masks_or_refused(folder, drawn, height, width):
    file = written(folder, "l.json", {"shapes": drawn, "imageHeight": height, "imageWidth": width})
    result_or_refusal(lambda: labelme_masks(file, folder / "p.png"))


@budget()
@given(
    st.one_of(
        st.text(max_size=30),
        st.sampled_from(["../x", "..\\x", "/etc/passwd", "a/../../b", "C:\\x", "//host/x", "a/./b", "\0", "~/x"]),
    )
)
def test_no_file_name_is_outside_of_the_data_folder(folder, name):
    found = result_or_refusal(lambda: path_inside(folder / "images", name, (folder,), "c.json"))
    assert isinstance(found, ValueError) or found == folder or folder in found.parents
