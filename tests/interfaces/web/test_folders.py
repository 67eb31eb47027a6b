"""The temporary folder of a server: deleted at the end, or by the next server if this one was killed."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from gemma_lisa.interfaces.web.folders import LOCK, PREFIX, server_folder

SERVER = """
import tempfile, time
tempfile.tempdir = {folder!r}
from gemma_lisa.interfaces.web.folders import server_folder
with server_folder() as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def started(folder: Path) -> tuple[subprocess.Popen, Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER.format(folder=str(folder))], stdout=subprocess.PIPE, text=True
    )
    return process, Path(process.stdout.readline().strip())


def test_the_folder_is_private_and_is_deleted_at_the_end(temporary):
    with server_folder() as folder:
        assert folder.parent == temporary and folder.stat().st_mode & 0o777 == 0o700
        (folder / "left").write_text("x")
    assert list(temporary.iterdir()) == []


def test_the_folder_of_a_killed_server_is_deleted_and_that_of_a_running_one_is_not(temporary):
    process, folder = started(temporary)
    try:
        (folder / "picture.png").write_text("x")
        with server_folder() as ours:
            assert (folder / "picture.png").exists(), "the folder of a running server was deleted"
            process.kill()
            process.wait()
            with server_folder():
                assert not folder.exists() and (ours / LOCK).exists()
    finally:
        process.kill()
        process.wait()


def test_other_folders_are_not_deleted(temporary):
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / LOCK).write_text("")
    linked = temporary / f"{PREFIX}1-abcdefgh"
    linked.symlink_to(elsewhere)
    names = (f"{PREFIX}2-abcdefgh", f"{PREFIX}notes", "gemma-lisa-12345678", f"{PREFIX}3-a b", "other")
    for name in names:
        (temporary / name).mkdir()
    for name in names[1:]:
        (temporary / name / LOCK).write_text("")
    before = sorted(temporary.rglob("*"))
    with server_folder():
        pass
    assert sorted(temporary.rglob("*")) == before
