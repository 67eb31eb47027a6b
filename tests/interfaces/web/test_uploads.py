"""Uploads in memory: how many, how large, how long, whose, and under which names."""

import contextlib
import itertools
import tempfile

import pytest
from page_requests import sent

from gemma_lisa.interfaces.web import uploads as module
from gemma_lisa.interfaces.web.uploads import MAX_NAME, Full, Uploads, printable


def test_a_file_is_opened_by_whoever_claimed_it_and_once():
    uploads = Uploads()
    first, second = uploads.add(b"1", "a.png"), uploads.add(b"2", "b.png")
    assert uploads.take("a") is None
    uploads.claim(first, "a")
    uploads.claim(second, "b")
    assert uploads.take("b") == (b"2", "b.png")
    assert uploads.take("b") is None
    assert uploads.take("a") == (b"1", "a.png")
    assert len(uploads) == 0


def test_of_several_files_the_last_claimed_is_opened_and_none_is_kept():
    uploads = Uploads()
    numbers = [uploads.add(bytes([n]), f"{n}.png") for n in range(3)]
    for number in (numbers[2], numbers[0], numbers[1]):
        uploads.claim(number, "a")
    assert uploads.take("a") == (b"\1", "1.png")
    assert len(uploads) == 0


@pytest.mark.parametrize("number", ["", "/etc/passwd", "../x", "https://example.com/x.png", "a" * 10_000])
def test_what_is_no_number_of_a_file_opens_none(number):
    uploads = Uploads()
    uploads.add(b"1", "a.png")
    uploads.claim(number, "a")
    assert uploads.take("a") is None and len(uploads) == 1


def test_numbers_cannot_be_guessed():
    uploads = Uploads()
    numbers = {uploads.add(b"", "a") for _ in range(100)}
    assert len(numbers) == 100 and all(len(number) == 32 for number in numbers)


def test_the_oldest_files_make_room(monkeypatch):
    uploads = Uploads(max_total_size=100)
    numbers = [uploads.add(bytes(40), "a") for _ in range(5)]
    assert len(uploads) == 2
    uploads.claim(numbers[-1], "a")
    assert uploads.take("a") is not None
    monkeypatch.setattr(module, "MAX_UPLOADS", 3)
    for _ in range(10):
        uploads.add(b"", "a")
    assert len(uploads) == 3


def test_files_that_arrive_have_memory_for_the_bytes_that_are_there():
    uploads = Uploads(max_total_size=100)
    uploads.add(bytes(60), "a")
    with uploads.room() as hold, uploads.room() as other:
        hold(40)
        assert len(uploads) == 1
        hold(30)
        assert len(uploads) == 0, "a file that waited was to make room"
        with pytest.raises(Full):
            other(31)
        other(30)
    with uploads.room() as hold:
        hold(100)
        uploads.add(bytes(100), "b", held=100)
    assert len(uploads) == 1


def test_connections_that_send_nothing_take_no_memory_and_no_file_that_a_visitor_waits_for():
    uploads = Uploads(max_total_size=100)
    uploads.claim(uploads.add(bytes(60), "a.png"), "a")
    with contextlib.ExitStack() as stack:
        holds = [stack.enter_context(uploads.room()) for _ in range(50)]
        number = uploads.add(bytes(10), "b.png")
        for hold in holds[:3]:
            hold(10)
        assert len(uploads) == 2
        holds[3](10)  # in place of the file that nobody claimed
        uploads.claim(number, "b")
        assert uploads.take("b") is None
        with pytest.raises(Full):
            holds[4](1)
        with pytest.raises(Full):
            uploads.add(bytes(1), "c.png")
        assert uploads.take("a") == (bytes(60), "a.png")


def test_a_visitor_holds_one_file_however_many_were_claimed(monkeypatch):
    monkeypatch.setattr(module, "MAX_UPLOADS", 2)
    uploads = Uploads()
    for _ in range(5):
        uploads.claim(uploads.add(b"1", "a.png"), "a")
        assert len(uploads) == 1
    uploads.claim(uploads.add(b"2", "b.png"), "b")
    with pytest.raises(Full):
        uploads.add(b"3", "c.png")


def test_files_that_nobody_opens_expire():
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
def test_names_are_printable_and_short(name, shown):
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
def test_an_upload_is_one_file_of_limited_size_and_never_written(page, files, status, monkeypatch):
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", lambda _: pytest.fail("written to disk"))
    answer = page.client.post(f"{page.api}upload", files=files or None, data={"x": "y"})
    assert answer.status_code == status


def test_an_upload_that_is_no_form_is_refused(page):
    for kind in ("application/json", "multipart/form-data", "multipart/form-data; boundary=x", "image/png"):
        answer = page.client.post(f"{page.api}upload", content=b"x" * 100, headers={"content-type": kind})
        assert answer.status_code == 400 and len(answer.text) < 100


def test_uploads_are_limited_together(page, monkeypatch):
    held = page.blocks.conversations.uploads
    monkeypatch.setattr(held, "max_total_size", 50_000_000)
    for _ in range(6):
        assert sent(page, bytes(15_000_000)).status_code == 200
        assert sum(len(upload.content) for upload in held._uploads.values()) <= 50_000_000
    monkeypatch.setattr(held, "max_total_size", 1000)
    assert sent(page, bytes(2000)).status_code == 503
