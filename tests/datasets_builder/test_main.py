"""`python -m gemma_lisa.datasets_builder`: output files, printed lines and exit codes."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from own_folder import mask, numbers, photo
from PIL import Image

from gemma_lisa.datasets_builder import __main__ as program
from gemma_lisa.datasets_builder import shards
from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.interfaces.command_line import run
from gemma_lisa.safety.errors import UsageError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def root(tmp_path):
    """Return a folder with three photos of ADE20K with two classes."""
    labels = np.repeat(np.array([[1], [4]], dtype=np.uint8), 20, axis=0).repeat(60, axis=1)
    for number in range(3):
        for kind, picture, suffix in (
            ("images", Image.new("RGB", (60, 40), (90, 40 * number, 10)), "jpg"),
            ("annotations", Image.fromarray(labels), "png"),
        ):
            folder = tmp_path / "data" / "ade20k" / kind / "training"
            folder.mkdir(parents=True, exist_ok=True)
            picture.save(folder / f"ADE_train_{number:08d}.{suffix}")
    return tmp_path / "data"


def call(*arguments):
    program.main([str(argument) for argument in arguments])


def test_prepared_rows_load_without_the_original_files(root, tmp_path, capsys):
    original = load_rows("ade20k", "train", str(root))
    call("prepare", "ade20k", "--data_dir", root, "--output", tmp_path / "out")
    assert "train 3 rows" in capsys.readouterr().out
    (root / "ade20k").rename(root / "gone")
    again = load_rows(str(tmp_path / "out"), "train")
    assert again["source"][:] == original["source"][:] and again["targets"][:] == original["targets"][:]
    assert again[0]["image"]["bytes"][:2] == b"\xff\xd8"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Zhou et al." in card and "| train | 3 |" in card and "non-commercial" in card


def test_inspect_prints_counts_and_draws_a_sheet(root, tmp_path, capsys):
    call("inspect", "ade20k", "--data_dir", root, "--output", tmp_path / "sheet.png")
    said = capsys.readouterr().out
    assert "train       3 rows (published: 20,210 images)" in said
    assert "6 targets, 6 masks" in said and "the floor" in said
    assert Image.open(tmp_path / "sheet.png").width > 1500


def test_verify_lists_all_errors_and_fails(root, capsys, monkeypatch):
    call("verify", "ade20k", "--data_dir", root)
    assert "ade20k: 3 rows, no errors" in capsys.readouterr().out
    folder = root / "ade20k"
    photo = (folder / "images/training/ADE_train_00000000.jpg").read_bytes()
    (folder / "images/training/ADE_train_00000000.jpg").write_bytes(photo[: len(photo) // 2])  # the header is complete
    (folder / "images/training/ADE_train_00000001.jpg").unlink()
    Image.new("L", (60, 40), 200).save(folder / "annotations/training/ADE_train_00000002.png")
    monkeypatch.setattr(sys, "argv", ["datasets_builder", "verify", "ade20k", "--data_dir", str(root)])
    with pytest.raises(SystemExit) as leaving:
        run(program.main)
    printed = capsys.readouterr()
    assert leaving.value.code == 1 and "3 errors (listed above), 0 valid rows" in printed.err
    assert all(f"ADE_train_0000000{number}" in printed.out for number in range(3))


def test_max_bad_skips_and_lists_bad_records(root, tmp_path, capsys, caplog):
    (root / "ade20k/images/training/ADE_train_00000001.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="ADE_train_00000001"):
        call("prepare", "ade20k", "--data_dir", root, "--output", tmp_path / "out")
    call("prepare", "ade20k", "--data_dir", root, "--output", tmp_path / "out", "--max_bad", 1)
    assert "train 2 rows" in capsys.readouterr().out and "ADE_train_00000001" in caplog.text


def test_verify_prints_each_error_once(tmp_path, capsys, caplog):
    photo(tmp_path, "1.jpg")
    mask(tmp_path, "1_mug.png", numbers(n1=slice(0, 2)))
    photo(tmp_path, "2.jpg")
    with pytest.raises(ValueError, match=r"^folder: 1 error \(listed above\), 1 valid row\.$"):
        call("verify", "folder", "--data_dir", tmp_path)
    printed = capsys.readouterr().out
    assert printed.splitlines() == [
        f"{tmp_path}/images/2.jpg: the photo has no mask; add masks/2.png or its LabelMe file, or remove the photo."
    ]
    assert "2.jpg" not in caplog.text and "max_bad" not in printed


def test_outputs_use_the_singular_for_one_row(tmp_path, capsys):
    photo(tmp_path, "1.jpg")
    mask(tmp_path, "1_mug.png", numbers(n1=slice(0, 2)))
    call("verify", "folder", "--data_dir", tmp_path)
    call("inspect", "folder", "--data_dir", tmp_path, "--output", tmp_path / "sheet.png")
    call("prepare", "folder", "--data_dir", tmp_path, "--output", tmp_path / "out")
    printed = capsys.readouterr().out.splitlines()
    assert printed[:3] == [
        "folder: 1 row, no errors",
        "train        1 row",
        "train: 1 target, 1 mask, 0 without a mask (not in the image), 0 conversation turns",
    ]
    assert printed[-1] == f"saved {tmp_path / 'out'}: train 1 row"


@pytest.mark.parametrize("command", ["inspect", "verify", "prepare"])
def test_a_folder_in_place_of_a_data_set_name_is_one_line_that_says_what_to_type(tmp_path, command):
    photo(tmp_path, "1.jpg")
    output = [] if command == "verify" else ["--output", tmp_path / "out"]
    with pytest.raises(UsageError, match=f"found images/.*use {command} folder --data_dir {tmp_path}"):
        call(command, tmp_path, *output)
    with pytest.raises(UsageError, match=f"no prepared rows; .*use {command} folder --data_dir"):
        call(command, tmp_path / "images", *output)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/plan.json").write_text("{}")
    with pytest.raises(UsageError, match="its rows are already prepared"):
        call(command, tmp_path / "rows", *output)


def test_prepare_does_not_write_into_the_original_files(root):
    with pytest.raises(UsageError, match="this folder contains the original files"):
        call("prepare", "ade20k", "--data_dir", root, "--output", root)


@pytest.mark.parametrize("name", ["README.md", "photo.jpg", "data/mine.parquet", "plan.json"])
def test_prepare_does_not_write_into_a_folder_with_other_files(root, tmp_path, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(ValueError, match="contains (other files|the shards of other rows)"):
        call("prepare", "ade20k", "--data_dir", root, "--output", tmp_path / "out")
    assert path.read_text() == "{}" and [found for found in (tmp_path / "out").rglob("*") if found.is_file()] == [path]


def test_inspect_does_not_overwrite_inputs_or_other_files(root, tmp_path, monkeypatch, capsys):
    photo = next(root.rglob("*.jpg"))
    with pytest.raises(UsageError, match="in the input folder"):
        call("inspect", "ade20k", "--data_dir", root, "--output", photo, "--overwrite")
    other = tmp_path / "sheet.png"
    other.write_bytes(b"mine")
    with pytest.raises(UsageError, match="add --overwrite"):
        call("inspect", "ade20k", "--data_dir", root, "--output", other)
    call("inspect", "ade20k", "--data_dir", root, "--output", other, "--overwrite")
    call("inspect", "ade20k", "--data_dir", root, "--output", other)  # written by Gemma-LISA
    assert capsys.readouterr().err.count(f"overwriting {other}") == 2


def test_a_terminated_prepare_leaves_complete_shards_and_resumes(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shards, "ROWS_PER_SHARD", 1)
    written, write = [], shards.parquet.write_table

    def stopped(*args, **options):
        write(*args, **options)
        written.append(1)
        if len(written) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(shards.parquet, "write_table", stopped)
    arguments = ["prepare", "ade20k", "--data_dir", str(root), "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["datasets_builder", *arguments])
    with pytest.raises(SystemExit) as ended:
        run(program.main)
    assert ended.value.code == 143 and capsys.readouterr().err.splitlines()[-1] == "terminated"
    assert [path.name for path in (tmp_path / "out" / "data").iterdir()] == ["train-00000-of-00003.parquet"]
    program.main(arguments)
    assert len(written) == 4 and len(load_rows(str(tmp_path / "out"), "train")) == 3


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "gemma_lisa.datasets_builder", "inspect", "ade20k", "--output", "sheet.txt"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.splitlines()[-1] == (
        "error: --output must be a file name that ends in .png, .jpg, .jpeg, .webp, .tif or .tiff, got 'sheet.txt'."
    )
