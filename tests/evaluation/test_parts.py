"""Answers of an unfinished evaluation: torn lines, full disks, foreign folders, two commands at once."""

import errno
import io
from dataclasses import replace

import pytest

from gemma_lisa.evaluation import parts
from gemma_lisa.evaluation.parts import SETTINGS, PartWriter, delete_parts, locked, open_parts
from gemma_lisa.evaluation.records import Prediction
from gemma_lisa.safety.errors import UsageError, WriteError

MASK = {"size": [2, 2], "counts": "04"}
WHOLE = Prediction("ü#0", [MASK], [0.1 + 0.2], "It is [SEG].", ["a"], False, 3, 0.5, -1.25, True)
SETTING = {"protocol": "generate", "versions": {"torch": "2"}}


def written(folder, *batches):
    open_parts(folder, SETTING)
    writer = PartWriter(folder, 1)
    for number in batches:
        writer.append(number, [replace(WHOLE, id=f"{number}#0")])
    writer.close()
    return folder / "1.jsonl"


def test_predictions_are_read_as_they_were_written(tmp_path):
    written(tmp_path, 4, 2)
    assert open_parts(tmp_path, SETTING) == {number: [replace(WHOLE, id=f"{number}#0")] for number in (4, 2)}


@pytest.mark.parametrize("cut", [1, 20])
def test_an_incomplete_last_line_is_ignored_with_a_message_and_replaced(tmp_path, capsys, cut):
    path = written(tmp_path, 0, 1)
    path.write_bytes(path.read_bytes()[:-cut])
    assert list(open_parts(tmp_path, SETTING)) == [0]
    assert f"{path}: the last batch is incomplete and is answered again" in capsys.readouterr().err
    written(tmp_path, 3)
    assert list(open_parts(tmp_path, SETTING)) == [0, 3]
    assert capsys.readouterr().err.count("batch is incomplete") == 1  # before the file was opened for writing


def test_a_broken_line_is_an_error_with_its_place(tmp_path):
    path = written(tmp_path, 0, 1)
    path.write_bytes(path.read_bytes().replace(b'"batch"', b'"beach"', 1))
    with pytest.raises(ValueError, match=rf"{path}, line 1: cannot be read .* Add --fresh"):
        open_parts(tmp_path, SETTING)


def test_a_full_disk_is_one_line_and_keeps_the_answers_before(tmp_path, monkeypatch):
    path = written(tmp_path, 0)
    writer = PartWriter(tmp_path, 1)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(parts.os, "fsync", full)
    with pytest.raises(WriteError, match=rf"^{path}: cannot be written \(No space left on device\)\.$"):
        writer.append(1, [WHOLE])
    assert 0 in open_parts(tmp_path, SETTING)


def test_a_line_that_does_not_fit_is_one_error_and_the_same_command_resumes(tmp_path):
    path = written(tmp_path, 0)
    writer = PartWriter(tmp_path, 1)
    limit = path.stat().st_size + 20

    class Full(io.FileIO):
        def write(self, data):
            if self.tell() >= limit:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(bytes(data[:20]))

    writer._file.close()
    writer._file = io.BufferedRandom(Full(path, "a+"))
    with pytest.raises(WriteError, match=rf"^{path}: cannot be written \(No space left on device\)\.$"):
        writer.append(1, [WHOLE])
    writer.close()
    assert path.stat().st_size == limit
    assert list(open_parts(tmp_path, SETTING)) == [0]
    written(tmp_path, 1)
    assert list(open_parts(tmp_path, SETTING)) == [0, 1]


def test_folders_of_other_programs_are_not_touched(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for action in (lambda: open_parts(tmp_path, SETTING), lambda: delete_parts(tmp_path)):
        with pytest.raises(UsageError, match="does not hold answers of eval.py"):
            action()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_only_own_files_are_deleted(tmp_path):
    folder = tmp_path / "r.parts"
    delete_parts(folder)
    written(folder, 0)
    (folder / "mine.txt").write_text("mine")
    delete_parts(folder)
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    (folder / "mine.txt").unlink()
    written(folder, 0)
    delete_parts(folder)
    assert not folder.exists()


def test_a_second_command_in_the_same_folder_is_refused(tmp_path):
    with locked(tmp_path / "r.parts"):
        with pytest.raises(UsageError, match="another eval.py is writing its answers there"):
            with locked(tmp_path / "r.parts"):
                pass
    with locked(tmp_path / "r.parts"):
        assert not (tmp_path / "r.parts" / SETTINGS).exists()
