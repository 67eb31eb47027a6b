"""The running page against whoever asks it over HTTP: it reads, writes and fetches nothing for them."""

import http.server
import itertools
import json
import logging
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import pytest
from fastapi.routing import APIRoute
from picture_files import ROOT, SCENE
from PIL import Image

from gemma_lisa.interfaces.web import gate, server, uploads
from gemma_lisa.interfaces.web.conversations import Conversations, Refused
from gemma_lisa.interfaces.web.page import build_page
from gemma_lisa.interfaces.web.server import LAUNCH
from gemma_lisa.interfaces.web.translations import WORDS

SECONDS = 60


@pytest.fixture(scope="module")
def page(tiny, tmp_path_factory) -> Iterator[SimpleNamespace]:
    """A page that is served: its address, itself, and the folder that it would write to."""
    folder = tmp_path_factory.mktemp("gradio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        blocks = build_page(Conversations(*tiny))
        _, address, _ = blocks.launch(server_name="127.0.0.1", **LAUNCH)
        with httpx.Client(timeout=SECONDS) as client:
            yield SimpleNamespace(address=address, api=f"{address}gradio_api/", blocks=blocks, client=client)
        blocks.close()
    assert [path for path in folder.rglob("*") if path.is_file()] == [], "the page wrote files"


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """Another server: the address of a picture there, and what it was asked for."""
    asked: list[str] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(SCENE.read_bytes())

        do_HEAD = do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}/picture.png", asked
    served.shutdown()


def event_number(page, name: str) -> int:
    return next(number for number, event in page.blocks.fns.items() if event.api_name == name)


def sent(page, content: bytes = b"", name: str = "scene.png") -> httpx.Response:
    return page.client.post(f"{page.api}upload", files={"files": (name, content or SCENE.read_bytes())})


def run(page, name: str, *values: Any, session: str = "a", **more: Any) -> httpx.Response:
    body = {"data": list(values), "fn_index": event_number(page, name), "session_hash": session, **more}
    return page.client.post(f"{page.api}run/{name}", json=body)


def joined(page, name: str, *values: Any, session: str = "a", **more: Any) -> httpx.Response:
    body = {"data": list(values), "fn_index": event_number(page, name), "session_hash": session, **more}
    return page.client.post(f"{page.api}queue/join", json=body)


def read(page, session: str = "a") -> dict[str, Any]:
    """The answer of the session's event."""
    query = {"session_hash": session}
    with page.client.stream("GET", f"{page.api}queue/data", params=query) as lines:
        for line in lines.iter_lines():
            told = json.loads(line.removeprefix("data:")) if line else {}
            if told.get("msg") == "process_completed":
                return told
    raise AssertionError("the stream ended without an answer")


def asked(page, name: str, *values: Any, session: str = "a", **more: Any) -> dict[str, Any]:
    assert joined(page, name, *values, session=session, **more).status_code == 200
    return read(page, session)


def open_picture(page, session: str) -> dict[str, Any]:
    assert run(page, "receive", sent(page).json()[0], session=session).status_code == 200
    return asked(page, "open", "en", session=session)


# ----------------------------------------------------------------------------------------------------------------------
# Read, fetch


def hostile_values(path: str, address: str) -> list[Any]:
    kind = {"meta": {"_type": "gradio.FileData"}}
    return [
        path,
        address,
        {"path": path},
        {"path": path} | kind,
        {"path": address} | kind,
        {"path": "x", "url": address} | kind,
        {"path": None, "url": address} | kind,
        {"path": address, "is_stream": True} | kind,
        {"url": f"file://{path}"} | kind,
        {"path": {"path": address} | kind} | kind,
        [{"path": address} | kind],
        {"value": {"path": address} | kind},
        {"video": {"path": address} | kind},
        {"path": "data:image/png;base64,iVBORw0KGgo="} | kind,
        {"__type__": "update", "value": {"path": address} | kind},
    ]


@pytest.mark.parametrize("form", range(15))
def test_no_event_reads_a_file_or_fetches_an_address(page, elsewhere, form, tmp_path):
    address, hits = elsewhere
    path = tmp_path / "private.png"
    Image.open(SCENE).save(path)
    value = hostile_values(str(path), address)[form]
    for event in page.blocks.fns.values():
        for slot in range(max(1, len(event.inputs))):
            values = ["en"] * len(event.inputs)
            values[slot : slot + 1] = [value][: len(values)]
            for more in ({}, {"event_data": value}, {"event_data": {"scene": 99, "turn": value}}, {"batched": True}):
                answer = run(page, event.api_name, *values, session=f"form{form}", **more)
                assert answer.status_code in (200, 400, 404) and '"picture":{' not in answer.text
    assert run(page, "receive", value, session=f"form{form}").status_code in (200, 400)
    told = asked(page, "open", "en", session=f"form{form}")
    assert WORDS["en"]["lost"] in json.dumps(told) and "base64" not in json.dumps(told)
    assert hits == []


def test_a_picture_that_was_uploaded_is_opened_and_its_number_names_it_for_gradios_client_too(page):
    assert "base64" in json.dumps(open_picture(page, "sender"))
    number = sent(page).json()[0]
    run(page, "receive", {"path": number, "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}, session="client")
    assert "base64" in json.dumps(asked(page, "open", "en", session="client"))


def test_a_visitor_cannot_open_what_another_sent(page):
    run(page, "receive", sent(page).json()[0], session="victim")
    assert WORDS["en"]["lost"] in json.dumps(asked(page, "open", "en", session="other"))
    assert "base64" in json.dumps(asked(page, "open", "en", session="victim"))


# ----------------------------------------------------------------------------------------------------------------------
# Routes

ANSWERED = {
    ("GET", "/"),
    ("HEAD", "/"),
    *(("GET", path) for path in ("/config", "/config/", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json")),
    *(("GET", f"{gate.API}/{path}") for path in ("info", "info/", "theme.css", "app_id", "app_id/", "startup-events")),
    ("GET", f"{gate.API}/queue/status"),
    *(("POST", path) for path in (gate.UPLOAD, gate.JOIN, gate.CANCEL, gate.RESET)),
    *(("POST", f"{gate.API}/run/{{api_name}}{end}") for end in ("", "/")),
}
STREAMS = {f"{gate.API}/queue/data", f"{gate.API}/heartbeat/{{session_hash}}"}
FILES = {"/static/{path:path}", "/assets/{path:path}"}


def test_of_all_of_gradios_routes_only_those_that_the_page_needs_answer(page):
    routes = {(method, route.path) for route in _routes(page.blocks.app) for method in route.methods}
    assert len(routes) > 60 and ANSWERED <= routes | {("POST", gate.UPLOAD)}
    for method, path in sorted(routes):
        if path in STREAMS:
            continue
        filled = re.sub(r"\{path(_or_url)?:path\}", str(ROOT / "README.md"), path)
        filled = re.sub(r"\{url_path:path\}", "http://127.0.0.1/x", filled)
        filled = re.sub(r"\{\w+\}", "receive", filled)
        json_body = {} if method in ("POST", "PUT", "PATCH") else None
        answer = page.client.request(method, page.address.rstrip("/") + filled, json=json_body)
        if (method, path) in ANSWERED:
            assert answer.status_code in (200, 400, 422), (method, path)
        else:
            assert answer.status_code == (403 if path in FILES else 404), (method, path)
        assert "Gemma-LISA" not in answer.text or path == "/"


def _routes(app) -> list[APIRoute]:
    """Every route with a method, in routers too."""
    found, waiting = [], list(app.routes)
    while waiting:
        route = waiting.pop()
        if isinstance(route, APIRoute):
            found.append(route)
        elif (router := getattr(route, "original_router", None)) is not None:
            waiting.extend(router.routes)
    return found


@pytest.mark.parametrize(
    "path",
    [
        "gradio_api/file={file}",
        "gradio_api/file={url}",
        "gradio_api//file={file}",
        "gradio_api/%66ile={file}",
        "gradio_api/proxy={url}",
        "gradio_api/info/../file={file}",
        "gradio_api/stream/a/b/c/playlist.m3u8",
        "gradio_api/deep_link?session_hash=a",
        "gradio_api/upload_progress?upload_id=a",
        "gradio_api/call/receive/a",
        "static/%2e%2e/%2e%2e/%2e%2e/%2e%2e{file}",
        "static/{file}",
        "assets/..%5c..%5cx",
        "assets/%2fetc/passwd",
        "monitoring/summary",
        "docs",
    ],
)
def test_no_address_of_the_page_hands_out_a_file_or_fetches_one(page, elsewhere, path):
    address, hits = elsewhere
    asked_for = path.format(file=ROOT / "README.md", url=address)
    answer = page.client.get(f"{page.address}{asked_for}")
    assert answer.status_code in (403, 404) and hits == []


def test_queries_that_name_files_are_not_heard(page):
    for path in ("?deep_link=../../../etc", "config?deep_link=../x", "gradio_api/info?serialize=x"):
        plain = page.client.get(f"{page.address}{path.split('?')[0]}")
        assert page.client.get(f"{page.address}{path}").text == plain.text


# ----------------------------------------------------------------------------------------------------------------------
# Bounds


def nested(depth: int) -> str:
    return '{"data": ' + "[" * depth + "]" * depth + ', "session_hash": "a", "fn_index": 0}'


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b"\xff\xfe", 400),
        (b'{"data": [], "session_hash": "a", "fn_index": 0}' + b" " * gate.MAX_BODY, 413),
        (nested(3), 400),
        (nested(100_000), 400),
        ('{"data": [' + "9" * 5000 + "]}", 400),
        ({"data": []}, 400),
        ({"data": "x"}, 400),
        ({"data": {}}, 400),
        ({"data": ["x"] * 9}, 400),
        ({"data": [5]}, 400),
        ({"data": [True]}, 400),
        ({"data": ["x"], "fn_index": 0}, 400),
        ({"data": [], "fn_index": 999}, 404),
        ({"data": [], "fn_index": None}, 404),
        ({"data": [], "fn_index": -1}, 400),
        ({"data": [], "fn_index": True}, 400),
        ({"data": [], "fn_index": "0"}, 400),
        ({"data": [], "fn_index": 2**70}, 400),
        ({"data": [], "trigger_id": {}}, 400),
        ({"data": [], "session_hash": None}, 400),
        ({"data": [], "session_hash": ""}, 400),
        ({"data": [], "session_hash": "a" * 65}, 400),
        ({"data": [], "session_hash": "../a"}, 400),
        ({"data": [], "session_hash": ["a"]}, 400),
        ({"data": [], "event_id": "a b"}, 400),
        ({"data": [], "event_data": []}, 400),
        ({"data": [], "event_data": "x"}, 400),
        ({"data": [], "event_data": {"turn": "x"}}, 400),
        ({"data": [], "event_data": {"turn": []}}, 400),
        ({"data": [], "event_data": {"turn": True}}, 400),
        ({"data": [], "event_data": {"turn": 10**400}}, 400),
        ({"data": [], "event_data": {"turn": float("nan")}}, 400),
        ({"data": [], "event_data": {str(number): 1 for number in range(17)}}, 400),
    ],
    ids=itertools.count(),
)
@pytest.mark.parametrize("route", ["queue/join", "run/predict"])
def test_a_body_that_the_page_never_sends_is_refused_in_plain_words(page, route, body, status):
    if isinstance(body, dict):
        defaults = {"fn_index": event_number(page, "greet"), "session_hash": "a"}
        if body == {"data": []}:
            defaults.pop("session_hash")
        body = json.dumps(defaults | body)
    answer = page.client.post(
        f"{page.api}{route}",
        content=body,
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == status
    assert len(answer.json()["detail"]) < 100 and "Traceback" not in answer.text


def test_a_body_of_another_kind_is_refused(page):
    body = {"data": [], "fn_index": event_number(page, "greet"), "session_hash": "a"}
    for headers in ({"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}, {}):
        answer = page.client.post(f"{page.api}run/predict", content=json.dumps(body), headers=headers)
        assert answer.status_code == 415


def test_half_characters_do_not_break_the_answer(page):
    open_picture(page, "half")
    body = f'{{"data": ["the \\ud83d circle", "en"], "fn_index": {event_number(page, "ask")}, "session_hash": "half"}}'
    headers = {"content-type": "application/json"}
    assert page.client.post(f"{page.api}queue/join", content=body, headers=headers).status_code == 200
    told = read(page, "half")
    assert told["success"] and told["output"]["data"][1]["turns"][0]["question"] == "the \ufffd circle"


@pytest.mark.parametrize(
    ("event_data", "name"),
    [
        (value, name)
        for name in ("point", "show", "choose")
        for value in (None, {}, {"turn": 0.5, "mask": 0, "x": 1, "y": 1, "label": 1}, {"turn": -1}, {"turn": 2**52})
    ],
    ids=itertools.count(),
)
def test_numbers_of_no_use_are_answered_in_plain_words(page, event_data, name):
    open_picture(page, "clicks")
    told = asked(page, name, "en", session="clicks", event_data=event_data)
    assert told["success"] and WORDS["en"]["bad_event"] in json.dumps(told)


@pytest.mark.parametrize("language", ["", "xx", "../en", None])
def test_a_language_that_there_is_not_is_answered_in_english(page, language):
    for event in page.blocks.fns.values():
        values = [language] * len(event.inputs)
        told = asked(page, event.api_name, *values, session="nobody", event_data={"scene": 99})
        assert told["success"], event.api_name


@pytest.mark.parametrize(
    ("files", "status"),
    [
        ([], 400),
        ([("files", ("a.png", b"x")), ("files", ("b.png", b"x"))], 400),
        ([("files", ("a.png", bytes(uploads.MAX_FILE_SIZE + 1)))], 413),
        ([("files", ("a.png", bytes(uploads.MAX_FORM_SIZE + 1)))], 413),
        ([("files", ("a.png", bytes(uploads.MAX_FILE_SIZE)))], 200),
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


def test_answers_that_nobody_reads_are_limited_and_deleted(page, monkeypatch):
    monkeypatch.setattr(gate, "MAX_UNDELIVERED", 4)
    monkeypatch.setattr(gate, "MAX_UNDELIVERED_OF_SESSION", 3)
    monkeypatch.setattr(gate, "UNREAD", 1)
    queue = page.blocks._queue
    for number in range(20):
        assert joined(page, "json", "en", session=f"silent{number}").status_code == 200
        assert sum(map(len, queue.pending_event_ids_session.values())) <= 4
    codes = [joined(page, "json", "en", session="eager").status_code for _ in range(4)]
    assert codes == [200, 200, 200, 503]
    _wait(lambda: not [name for name in [*queue.pending_event_ids_session] if name.startswith(("silent", "eager"))])
    assert not [name for name in queue.pending_messages_per_session if name.startswith(("silent", "eager"))]
    assert asked(page, "json", "en", session="after")["success"]


def test_files_that_nobody_reads_make_room(page, monkeypatch):
    monkeypatch.setattr(gate, "MAX_LARGE", 2)
    pending = page.blocks._queue.pending_event_ids_session
    for number in range(6):
        values = [("png", "", "", "en"), ("json", "en")][number % 2]
        assert joined(page, *values, session=f"saver{number}").status_code == 200
        assert len([name for name in pending if name.startswith("saver")]) <= 2
    assert read(page, "saver5")["success"]


def test_the_expiry_survives_a_fault(page, monkeypatch):
    monkeypatch.setattr(server, "EXPIRY_EVERY", 0.05)
    conversations, rounds = page.blocks.conversations, []

    def fail(*_: Any) -> None:
        rounds.append(1)
        raise OSError("fault")

    with monkeypatch.context() as broken:
        broken.setattr(conversations.uploads, "expire", fail)
        _wait(lambda: len(rounds) > 2)
    open_picture(page, "later")
    conversations.of("later").used -= 3600
    _wait(lambda: "later" not in conversations._conversations)


def _wait(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.05)


def test_open_connections_are_limited(page, monkeypatch):
    with _heartbeat(page, "b") as first:
        assert first.status_code == 200
        monkeypatch.setattr(gate, "MAX_STREAMS", 1)
        with _heartbeat(page, "c") as second:
            assert second.status_code == 503
    assert page.client.get(f"{page.api}queue/data", params={"session_hash": "../x"}).status_code == 400
    assert page.client.get(f"{page.api}queue/data").status_code == 400


def test_answers_are_read_by_one_connection_and_only_where_there_are_any(page, monkeypatch):
    answered = threading.Event()

    def wait(_: str) -> None:
        answered.wait(SECONDS)
        raise Refused("no_picture")

    def read_by_another() -> int:
        return page.client.get(f"{page.api}queue/data", params={"session_hash": "reader"}).status_code

    monkeypatch.setattr(page.blocks.conversations, "of", wait)
    assert read_by_another() == 404
    assert joined(page, "json", "en", session="reader").status_code == 200
    with page.client.stream("GET", f"{page.api}queue/data", params={"session_hash": "reader"}) as lines:
        told = lines.iter_lines()
        assert next(told) and read_by_another() == 409
        answered.set()
        assert any("process_completed" in line for line in told)


@contextmanager
def _heartbeat(page, session: str) -> Iterator[httpx.Response]:
    with page.client.stream("GET", f"{page.api}heartbeat/{session}") as answer:
        yield answer


def test_many_sessions_leave_little_behind(page):
    for number in range(300):
        assert run(page, "leave", session=f"many{number}").status_code == 200
    assert len(page.blocks.app.state_holder.session_data) <= LAUNCH["state_session_capacity"]
    assert len(page.blocks.conversations) <= page.blocks.conversations.limit


# ----------------------------------------------------------------------------------------------------------------------
# Faults


@pytest.mark.parametrize("name", ["ask", "stop", "point", "undo", "show", "forget", "png", "json"])
def test_of_an_unknown_fault_the_visitor_learns_only_that_there_was_one(page, name, monkeypatch, caplog):
    def fail(_: str) -> None:
        raise RuntimeError("secret of /srv/models/private.safetensors")

    monkeypatch.setattr(page.blocks.conversations, "of", fail)
    values = ["x"] * (len(page.blocks.fns[event_number(page, name)].inputs) - 1)
    for language in ("en", "ja"):
        with caplog.at_level(logging.ERROR):
            told = asked(page, name, *values, language, session="faults")
        assert not told["success"] and told["output"]["error"] == WORDS[language]["unknown"]
        assert "secret" not in json.dumps(told) and "/srv" not in json.dumps(told)
        assert "secret of /srv" in caplog.text, "the log does not have it"


def test_a_picture_that_fails_in_an_unknown_way_is_no_exception(page, monkeypatch):
    def fail(*_: Any) -> None:
        raise MemoryError("secret")

    monkeypatch.setattr(page.blocks.conversations, "open", fail)
    run(page, "receive", sent(page).json()[0], session="faults")
    told = asked(page, "open", "en", session="faults")
    assert not told["success"] and told["output"]["error"] == WORDS["en"]["unknown"]


def test_no_part_of_the_page_takes_files(page):
    parts = [part for event in page.blocks.fns.values() for part in event.inputs]
    assert parts and {type(part) for part in parts} <= {gr.Textbox, gr.Radio}


def test_a_conversation_of_a_silent_visitor_is_gone_from_gradio_too(page):
    open_picture(page, "silent")
    assert "silent" in page.blocks.app.state_holder.session_data
    page.blocks.conversations.of("silent").used -= 3600
    _wait(lambda: "silent" not in page.blocks.app.state_holder.session_data)
