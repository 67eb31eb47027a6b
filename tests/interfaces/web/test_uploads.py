"""Uploads in memory: their identifier, size, age, owner and name."""

import contextlib
import itertools
import tempfile

import pytest
from page_requests import upload

from gemma_lisa.interfaces.web import uploads as module
from gemma_lisa.interfaces.web.uploads import MAX_NAME, Full, Uploads, printable


def test_a_file_is_opened_once_by_the_session_that_claimed_it():
    uploads = Uploads()
    first, second = uploads.add(b"1", "a.png"), uploads.add(b"2", "b.png")
    assert uploads.take("a") is None
    uploads.claim(first, "a")
    uploads.claim(second, "b")
    assert uploads.take("b") == (b"2", "b.png")
    assert uploads.take("b") is None
    assert uploads.take("a") == (b"1", "a.png")
    assert len(uploads) == 0


def test_the_file_that_was_claimed_last_is_opened_and_the_others_are_deleted():
    uploads = Uploads()
    identifiers = [uploads.add(bytes([n]), f"{n}.png") for n in range(3)]
    for identifier in (identifiers[2], identifiers[0], identifiers[1]):
        uploads.claim(identifier, "a")
    assert uploads.take("a") == (b"\1", "1.png")
    assert len(uploads) == 0


@pytest.mark.parametrize("identifier", ["", "/etc/passwd", "../x", "https://example.com/x.png", "a" * 10_000])
def test_an_unknown_identifier_opens_no_file(identifier):
    uploads = Uploads()
    uploads.add(b"1", "a.png")
    uploads.claim(identifier, "a")
    assert uploads.take("a") is None and len(uploads) == 1


def test_identifiers_cannot_be_guessed():
    uploads = Uploads()
    identifiers = {uploads.add(b"", "a") for _ in range(100)}
    assert len(identifiers) == 100 and all(len(identifier) == 32 for identifier in identifiers)


def test_the_oldest_unclaimed_files_are_deleted_first(monkeypatch):
    uploads = Uploads(max_total_size=100)
    identifiers = [uploads.add(bytes(40), "a") for _ in range(5)]
    assert len(uploads) == 2
    uploads.claim(identifiers[-1], "a")
    assert uploads.take("a") is not None
    monkeypatch.setattr(module, "MAX_UPLOADS", 3)
    for _ in range(10):
        uploads.add(b"", "a")
    assert len(uploads) == 3


def test_memory_is_reserved_for_the_bytes_that_have_arrived():
    uploads = Uploads(max_total_size=100)
    uploads.add(bytes(60), "a")
    with uploads.room() as hold, uploads.room() as other:
        hold(40)
        assert len(uploads) == 1
        hold(30)
        assert len(uploads) == 0, "the waiting file was not deleted"
        with pytest.raises(Full):
            other(31)
        other(30)
    with uploads.room() as hold:
        hold(100)
        uploads.add(bytes(100), "b", held=100)
    assert len(uploads) == 1


def test_connections_that_send_nothing_take_no_memory_and_delete_no_claimed_file():
    uploads = Uploads(max_total_size=100)
    uploads.claim(uploads.add(bytes(60), "a.png"), "a")
    with contextlib.ExitStack() as stack:
        holds = [stack.enter_context(uploads.room()) for _ in range(50)]
        identifier = uploads.add(bytes(10), "b.png")
        for hold in holds[:3]:
            hold(10)
        assert len(uploads) == 2
        holds[3](10)  # deletes the file that no session has claimed
        uploads.claim(identifier, "b")
        assert uploads.take("b") is None
        with pytest.raises(Full):
            holds[4](1)
        with pytest.raises(Full):
            uploads.add(bytes(1), "c.png")
        assert uploads.take("a") == (bytes(60), "a.png")


def test_a_session_keeps_only_one_claimed_file(monkeypatch):
    monkeypatch.setattr(module, "MAX_UPLOADS", 2)
    uploads = Uploads()
    for _ in range(5):
        uploads.claim(uploads.add(b"1", "a.png"), "a")
        assert len(uploads) == 1
    uploads.claim(uploads.add(b"2", "b.png"), "b")
    with pytest.raises(Full):
        uploads.add(b"3", "c.png")


def test_files_that_are_not_opened_expire():
    uploads = Uploads()
    uploads.claim(uploads.add(b"1", "a.png"), "a")
    uploads.expire()
    assert len(uploads) == 1
    uploads.expire(age=0)
    assert len(uploads) == 0 and uploads.take("a") is None


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("scene.png", "scene.png"),
        ("写真.png", "写真.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\a.png", "a.png"),
        ("a\nb.png", "a_b.png"),
        ("\u202egnp.exe.png", "_gnp.exe.png"),
        ("\x00\x1b[31m.png", "__[31m.png"),
        ("", "picture"),
        ("..", ".."),
        ("x" * 300 + ".png", "x" * (MAX_NAME - 4) + ".png"),
        ("x." + "y" * 300, ("x." + "y" * 300)[: MAX_NAME - 10] + "." + "y" * 9),
    ],
)
def test_file_names_are_made_printable_and_short(name, shown):
    assert printable(name) == shown and len(shown) <= MAX_NAME


@pytest.mark.parametrize(
    ("files", "status"),
    [
        ([], 400),
        ([("files", ("a.png", b"x")), ("files", ("b.png", b"x"))], 400),
        ([("files", ("a.png", bytes(module.MAX_FILE_SIZE + 1)))], 413),
        ([("files", ("a.png", bytes(module.MAX_FORM_SIZE + 1)))], 413),
        ([("files", ("a.png", bytes(module.MAX_FILE_SIZE)))], 200),
        ([("files", ("a.png", b""))], 200),
        ([("files", ("x" * 1000, b"x"))], 200),
        ([("files", ("x" * 100_000, b"x"))], 400),
    ],
    ids=itertools.count(),
)
def test_an_upload_is_one_file_of_limited_size_and_is_never_written_to_disk(page, files, status, monkeypatch):
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", lambda _: pytest.fail("written to disk"))
    answer = page.client.post(f"{page.api}upload", files=files or None, data={"x": "y"})
    assert answer.status_code == status


def test_an_upload_that_is_not_a_form_is_refused(page):
    for kind in ("application/json", "multipart/form-data", "multipart/form-data; boundary=x", "image/png"):
        answer = page.client.post(f"{page.api}upload", content=b"x" * 100, headers={"content-type": kind})
        assert answer.status_code == 400 and len(answer.text) < 100


def test_the_size_of_all_uploads_together_is_limited(page, monkeypatch):
    held = page.blocks.conversations.uploads
    monkeypatch.setattr(held, "max_total_size", 50_000_000)
    for _ in range(6):
        assert upload(page, bytes(15_000_000)).status_code == 200
        assert sum(len(file.content) for file in held._uploads.values()) <= 50_000_000
    monkeypatch.setattr(held, "max_total_size", 1000)
    assert upload(page, bytes(2000)).status_code == 503
