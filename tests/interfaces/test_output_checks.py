"""Inputs are never overwritten, files of other programs only with --overwrite, and own files are recognized."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from huggingface_hub import constants
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pyarrow import parquet

from gemma_lisa.checkpoints.adapter_base import Base, write_base
from gemma_lisa.interfaces.output_checks import check_outputs, data_inputs, hub_cache, is_own
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.whole_files import SIGNATURE, write_bytes, write_whole


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)).save(path)
    return path


def as_itself(photo):
    return photo


def by_another_way(photo):
    (photo.parent / "sub").mkdir()
    return photo.parent / "sub" / ".." / photo.name


def as_a_link(photo):
    link = photo.with_name("link.png")
    link.symlink_to(photo)
    return link


def as_a_link_to_a_link(photo):
    link = photo.with_name("second.png")
    link.symlink_to(as_a_link(photo))
    return link


def as_a_hard_link(photo):
    os.link(photo, photo.with_name("hard.png"))
    return photo.with_name("hard.png")


def through_a_linked_folder(photo):
    folder = photo.parent / "elsewhere"
    folder.symlink_to(photo.parent)
    return folder / photo.name


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "named",
    [as_itself, by_another_way, as_a_link, as_a_link_to_a_link, as_a_hard_link, through_a_linked_folder],
)
def test_an_input_is_never_overwritten_also_through_links(photo, named, overwrite):
    content, output = photo.read_bytes(), named(photo)
    with pytest.raises(UsageError, match="is an input .*choose another name"):
        check_outputs([("--output", output)], ["org/name", None, photo], overwrite)
    with pytest.raises(UsageError, match="is an input"):
        check_outputs([("--output", photo)], [output], overwrite)
    assert photo.read_bytes() == content


@pytest.mark.parametrize("overwrite", [False, True])
def test_existing_files_of_an_input_folder_are_never_overwritten_and_new_ones_are_allowed(photo, overwrite):
    folder = photo.parent
    (folder / "deep").mkdir()
    (folder / "deep" / "config.json").write_text("{}")
    for path in (photo, folder / "deep" / "config.json"):
        with pytest.raises(UsageError, match="in the input folder"):
            check_outputs([("--json", path)], [folder], overwrite)
    check_outputs([("--json", folder / "new.json"), ("--output", folder / "deep" / "new.png")], [folder], overwrite)


def test_a_foreign_file_needs_overwrite_and_overwriting_is_printed(photo, capsys):
    with pytest.raises(UsageError, match=r"was not written by Gemma-LISA; .* add --overwrite"):
        check_outputs([("--output", photo)], [])
    check_outputs([("--output", photo)], [], overwrite=True)
    assert capsys.readouterr().err == f"overwriting {photo}\n"


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
def test_a_picture_of_this_project_is_recognized_and_overwritten_with_one_line(tmp_path, capsys, suffix):
    outputs = [("--output", tmp_path / f"{name}.{suffix}") for name in "abc"]
    for _, path in outputs:
        write_whole(path, Image.new("RGB", (5, 4)))
        assert is_own(path)
        with Image.open(path) as opened:
            assert opened.size == (5, 4) and opened.getexif()[0x0131] == "Gemma-LISA"
    check_outputs(outputs, [tmp_path])
    assert capsys.readouterr().err == f"overwriting {outputs[0][1]} and 2 other files\n"


@pytest.mark.parametrize(
    ("name", "content", "own"),
    [
        ("a.json", [{"image": "a.png", "query": "q", "text": "t", "raw_text": "r", "masks": []}], True),
        ("a.json", {"scores": {"gIoU": 0.5}, "protocol": "generate"}, True),
        ("a.json", [{"image": "a.png", "caption": "mine"}], False),
        ("a.json", {"scores": [1, 2]}, False),
        ("a.json", {"scores": {"gIoU": 0.5}, "protocol": "mine"}, False),
        ("a.json", [{"image": "a.png", "query": "q", "text": "mine"}], False),
        ("a.json", '[\n  {\n    "image": "a",\n    "query": "q",\n    "text": 1}, and no JSON', False),
        ("a.json", "[" * 100_000, False),
        ("a.json", [], False),
        ("a.jsonl", json.dumps({"source": "a", "question": "b", "expected": "c", "answer": "d"}) + "\n", True),
        ("a.jsonl", json.dumps({"image": "a", "query": "b"}) + "\n", False),
        ("q.jsonl", json.dumps({"id": "a#0", "question": "b", "source": "a", "asks": "masks"}) + "\n", True),
        ("q.manifest.json", {"dataset": "d", "count": 0, "fingerprint": "0", "ids": []}, True),
        ("q.manifest.json", {"dataset": "d", "count": 0}, False),
        ("a.html", f"<html><head>\n{SIGNATURE}\n</head></html>", True),
        ("a.html", "<html><head><title>Gemma-LISA</title></head></html>", False),
        ("r.questions.parquet", "PAR1 of another program PAR1", False),
        ("a.csv", "image,query\na.png,Gemma\n", False),
    ],
)
def test_a_json_file_of_this_project_is_recognized(tmp_path, name, content, own):
    write_whole(tmp_path / name, content)
    assert is_own(tmp_path / name) is own


@pytest.mark.parametrize(
    "metadata, own", [({"software": "Gemma-LISA"}, True), ({"software": "mine"}, False), ({}, False)]
)
def test_a_questions_file_is_recognized_without_its_results_file(tmp_path, metadata, own):
    table = pyarrow.table({"id": ["a#0"]}).replace_schema_metadata(metadata)
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    write_bytes(tmp_path / "r.questions.parquet", buffer.getbuffer())
    assert is_own(tmp_path / "r.questions.parquet") is own
    (tmp_path / "r.questions.parquet").write_bytes(buffer.getvalue()[:-20])
    assert not is_own(tmp_path / "r.questions.parquet")


def test_two_outputs_must_be_two_files_and_an_empty_file_is_replaced_with_one_line(tmp_path, capsys):
    for second in ("a.png", "A.PNG", "./sub/../a.png"):
        with pytest.raises(UsageError, match="--output writes to the same file"):
            check_outputs([("--output", tmp_path / "a.png"), ("--json", tmp_path / second)], [])
    (tmp_path / "empty.json").touch()
    check_outputs([("--json", tmp_path / "empty.json"), ("--output", Path("/dev/null"))], [])
    assert capsys.readouterr().err == f"overwriting {tmp_path / 'empty.json'}\n"
    with pytest.raises(UsageError, match="in the input folder"):
        check_outputs([("--json", tmp_path / "empty.json")], [tmp_path], overwrite=True)


RESULTS = {"scores": {"gIoU": 0.5}, "protocol": "generate"}


@pytest.mark.parametrize("ending", ["preview.png", "worst.png", "questions.parquet", "report.html"])
def test_files_next_to_results_are_recognized_without_the_exif_tag(tmp_path, ending):
    path = tmp_path / f"results.{ending}"
    path.write_bytes(b"of an older version")
    write_whole(tmp_path / "results.json", {"scores": "mine"})
    assert not is_own(path)
    write_whole(tmp_path / "results.json", RESULTS)
    assert is_own(path)
    check_outputs([("--output", path)], [tmp_path], models=[tmp_path])


def test_only_the_files_that_are_read_from_a_model_folder_are_inputs(tmp_path, capsys):
    read = ["config.json", "model-00001-of-00002.safetensors", "tokenizer.json", "chat_template.jinja"]
    read += ["modeling_gemma_lisa.py", "training.json", "SHA256SUMS", "adapter_model.safetensors"]
    (tmp_path / "words").mkdir()
    for name in [*read, "mine.json", "mine.png", "words/config.json"]:
        (tmp_path / name).write_text("{}")
    for name in read:
        with pytest.raises(UsageError, match="in the input folder"):
            check_outputs([("--output", tmp_path / name)], [], overwrite=True, models=[tmp_path])
    for name in ("mine.json", "mine.png", "words/config.json"):
        with pytest.raises(UsageError, match="add --overwrite"):
            check_outputs([("--output", tmp_path / name)], [], models=[tmp_path])
        check_outputs([("--output", tmp_path / name)], [], overwrite=True, models=[tmp_path])


def test_the_base_model_of_an_adapter_is_an_input(tmp_path):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    base.mkdir()
    write_whole(base / "config.json", {})
    adapter.mkdir()
    write_whole(adapter / "adapter_config.json", {})
    write_base(adapter, Base(str(base), None, "0"))
    with pytest.raises(UsageError, match="in the input folder .*base"):
        check_outputs([("--json", base / "config.json")], [], overwrite=True, models=[adapter])


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_the_cached_files_of_a_name_on_the_hub_are_inputs(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / f"{kind}s--org--name" / "snapshots" / "0"
    (snapshot.parents[1] / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "blobs" / "1").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/1")
    models = ["org/name"] if kind == "model" else []
    data = data_inputs("org/name", None, None) if kind == "dataset" else []
    with pytest.raises(UsageError, match="in the input folder"):
        check_outputs([("--json", snapshot / "config.json")], data, overwrite=True, models=models)
    assert hub_cache("x/" * 5000) is None


def test_data_dir_in_the_dataset_options_is_an_input(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UsageError, match="in the input folder"):
        inputs = data_inputs("shapes", None, {"data_dir": str(tmp_path)})
        check_outputs([("--json", tmp_path / "a.json")], inputs, overwrite=True)


def test_a_picture_that_only_mentions_the_project_is_not_recognized(tmp_path):
    text = PngInfo()
    text.add_text("Comment", "Made with Gemma-LISA")
    Image.new("RGB", (5, 4)).save(tmp_path / "a.png", pnginfo=text)
    other = Image.Exif()
    other[0x0131] = "Gemma-LISA viewer"
    for name in ("b.png", "b.jpg", "b.tiff", "b.webp"):
        Image.new("RGB", (5, 4)).save(tmp_path / name, exif=other)
    (tmp_path / "c.png").write_bytes(b"Gemma-LISA")
    assert not any(is_own(path) for path in tmp_path.iterdir())


def test_a_picture_is_recognized_without_decoding_its_pixels(tmp_path):
    write_whole(tmp_path / "a.png", Image.effect_noise((500, 500), 90))
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    assert is_own(tmp_path / "a.png")
