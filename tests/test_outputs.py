import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.command_line import UsageError, write_whole
from gemma_lisa.outputs import check_outputs, check_run_folder, is_own


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
def test_an_input_is_never_overwritten_however_it_is_named(photo, named, overwrite):
    content, output = photo.read_bytes(), named(photo)
    with pytest.raises(UsageError, match="is an input .*name another file"):
        check_outputs([("--output", output)], ["org/name", None, photo], overwrite)
    with pytest.raises(UsageError, match="is an input"):
        check_outputs([("--output", photo)], [output], overwrite)
    assert photo.read_bytes() == content


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_an_input_folder_is_never_overwritten_and_a_new_one_is_written(photo, overwrite):
    folder = photo.parent
    (folder / "deep").mkdir()
    (folder / "deep" / "config.json").write_text("{}")
    for path in (photo, folder / "deep" / "config.json"):
        with pytest.raises(UsageError, match="in the input folder"):
            check_outputs([("--json", path)], [folder], overwrite)
    check_outputs([("--json", folder / "new.json"), ("--output", folder / "deep" / "new.png")], [folder], overwrite)


def test_another_file_needs_overwrite_and_that_is_said(photo, capsys):
    with pytest.raises(UsageError, match=r"was not written by Gemma-LISA; .* add --overwrite"):
        check_outputs([("--output", photo)], [])
    check_outputs([("--output", photo)], [], overwrite=True)
    assert capsys.readouterr().err == f"overwriting {photo}\n"


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
def test_a_picture_of_this_project_is_known_again_and_overwritten_with_one_line(tmp_path, capsys, suffix):
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
        ("a.json", [], False),
        ("a.jsonl", json.dumps({"source": "a", "question": "b", "expected": "c", "answer": "d"}) + "\n", True),
        ("a.jsonl", json.dumps({"image": "a", "query": "b"}) + "\n", False),
        ("a.csv", "image,query\na.png,Gemma\n", False),
    ],
)
def test_a_json_file_of_this_project_is_known_again(tmp_path, name, content, own):
    write_whole(tmp_path / name, content)
    assert is_own(tmp_path / name) is own


def test_two_outputs_are_two_files_and_an_empty_file_is_no_loss(tmp_path, capsys):
    for second in ("a.png", "A.PNG", "./sub/../a.png"):
        with pytest.raises(UsageError, match="--output writes to the same file"):
            check_outputs([("--output", tmp_path / "a.png"), ("--json", tmp_path / second)], [])
    (tmp_path / "empty.json").touch()
    check_outputs([("--json", tmp_path / "empty.json"), ("--output", Path("/dev/null"))], [])
    assert capsys.readouterr().err == ""


def test_a_training_does_not_write_into_its_data_or_over_a_model_that_no_run_saved(tmp_path):
    own = ("training.json", "checkpoint-*")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="the training reads what is there"):
        check_run_folder(tmp_path / "link", [None, tmp_path], own)
    folder = tmp_path / "model"
    check_run_folder(folder, [tmp_path], own)  # not there yet
    folder.mkdir()
    (folder / "notes.txt").touch()
    check_run_folder(folder, [tmp_path], own)
    for name in ("model-00001-of-00002.safetensors", "config.json", "adapter_config.json"):
        (folder / name).touch()
        with pytest.raises(UsageError, match=f"holds a model that no training run saved there .{name}."):
            check_run_folder(folder, [], own)
        (folder / "checkpoint-3").mkdir()
        check_run_folder(folder, [], own)
        (folder / "checkpoint-3").rmdir()
        (folder / name).unlink()
