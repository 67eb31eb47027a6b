"""HTTP requests to the running page: it reads no file, writes no file and fetches no URL for a client."""

import http.server
import itertools
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from page_requests import SECONDS, call, event_number, join, open_picture, read, run, upload, wait_for
from picture_files import ROOT, SCENE
from PIL import Image

from gemma_lisa.interfaces.web import gate
from gemma_lisa.interfaces.web.conversations import UserError
from gemma_lisa.interfaces.web.translations import WORDS


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """Start another server; yield the URL of its picture and the list of paths that were requested from it."""
    requested: list[str] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(SCENE.read_bytes())

        do_HEAD = do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}/picture.png", requested
    served.shutdown()


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
def test_no_event_reads_a_file_or_fetches_a_url(page, elsewhere, form, tmp_path):
    address, hits = elsewhere
    path = tmp_path / "private.png"
    Image.open(SCENE).save(path)
    value = hostile_values(str(path), address)[form]
    for event in page.blocks.fns.values():
        for slot in range(max(1, len(event.inputs))):
            values = ["en"] * len(event.inputs)
            values[slot : slot + 1] = [value][: len(values)]
            for more in ({}, {"event_data": value}, {"event_data": {"card": 99, "turn": value}}, {"batched": True}):
                answer = run(page, event.api_name, *values, session=f"form{form}", **more)
                assert answer.status_code in (200, 400, 404) and '"picture":{' not in answer.text
    assert run(page, "receive", value, session=f"form{form}").status_code in (200, 400)
    data = call(page, "open", "en", session=f"form{form}")
    assert WORDS["en"]["lost"] in json.dumps(data) and "base64" not in json.dumps(data)
    assert hits == []


def test_an_uploaded_picture_is_opened_by_its_identifier_also_from_gradios_client(page):
    assert "base64" in json.dumps(open_picture(page, "sender"))
    identifier = upload(page).json()[0]
    run(
        page,
        "receive",
        {"path": identifier, "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}},
        session="client",
    )
    assert "base64" in json.dumps(call(page, "open", "en", session="client"))


def test_a_session_cannot_open_the_upload_of_another(page):
    run(page, "receive", upload(page).json()[0], session="victim")
    assert WORDS["en"]["lost"] in json.dumps(call(page, "open", "en", session="other"))
    assert "base64" in json.dumps(call(page, "open", "en", session="victim"))


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


def test_only_the_routes_that_the_page_needs_are_served(page):
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
    """Return every route with a method, including those of routers."""
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
def test_no_path_of_the_page_serves_a_file_or_fetches_a_url(page, elsewhere, path):
    address, hits = elsewhere
    asked_for = path.format(file=ROOT / "README.md", url=address)
    answer = page.client.get(f"{page.address}{asked_for}")
    assert answer.status_code in (403, 404) and hits == []


def test_query_strings_with_file_names_are_ignored(page):
    for path in ("?deep_link=../../../etc", "config?deep_link=../x", "gradio_api/info?serialize=x"):
        plain = page.client.get(f"{page.address}{path.split('?')[0]}")
        assert page.client.get(f"{page.address}{path}").text == plain.text


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
def test_an_invalid_body_is_refused_with_a_reason(page, route, body, status):
    if isinstance(body, dict):
        defaults = {"fn_index": event_number(page, "load"), "session_hash": "a"}
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


def test_a_body_with_another_content_type_is_refused(page):
    body = {"data": [], "fn_index": event_number(page, "load"), "session_hash": "a"}
    for headers in ({"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}, {}):
        answer = page.client.post(f"{page.api}run/predict", content=json.dumps(body), headers=headers)
        assert answer.status_code == 415


def test_lone_surrogates_do_not_break_the_answer(page):
    open_picture(page, "half")
    body = f'{{"data": ["the \\ud83d circle", "en"], "fn_index": {event_number(page, "ask")}, "session_hash": "half"}}'
    headers = {"content-type": "application/json"}
    assert page.client.post(f"{page.api}queue/join", content=body, headers=headers).status_code == 200
    data = read(page, "half")
    assert data["success"] and data["output"]["data"][1]["turns"][0]["question"] == "the \ufffd circle"


@pytest.mark.parametrize(
    ("event_data", "name"),
    [
        (value, name)
        for name in ("correct", "show", "choose")
        for value in (None, {}, {"turn": 0.5, "mask": 0, "x": 1, "y": 1, "label": 1}, {"turn": -1}, {"turn": 2**52})
    ],
    ids=itertools.count(),
)
def test_invalid_event_data_gives_a_message(page, event_data, name):
    open_picture(page, "clicks")
    data = call(page, name, "en", session="clicks", event_data=event_data)
    assert data["success"] and WORDS["en"]["bad_event"] in json.dumps(data)


@pytest.mark.parametrize("language", ["", "xx", "../en", None])
def test_an_unknown_language_falls_back_to_english(page, language):
    for event in page.blocks.fns.values():
        values = [language] * len(event.inputs)
        data = call(page, event.api_name, *values, session="nobody", event_data={"card": 99})
        assert data["success"], event.api_name


def test_unread_results_are_limited_and_deleted(page, monkeypatch):
    monkeypatch.setattr(gate, "MAX_UNDELIVERED", 4)
    monkeypatch.setattr(gate, "MAX_UNDELIVERED_OF_SESSION", 3)
    monkeypatch.setattr(gate, "UNREAD", 1)
    queue = page.blocks._queue
    for number in range(20):
        assert join(page, "json", "en", session=f"silent{number}").status_code == 200
        assert sum(map(len, queue.pending_event_ids_session.values())) <= 4
    codes = [join(page, "json", "en", session="eager").status_code for _ in range(4)]
    assert codes == [200, 200, 200, 503]
    wait_for(lambda: not [name for name in [*queue.pending_event_ids_session] if name.startswith(("silent", "eager"))])
    assert not [name for name in queue.pending_messages_per_session if name.startswith(("silent", "eager"))]
    assert call(page, "json", "en", session="after")["success"]


def test_the_oldest_unread_files_are_deleted_first(page, monkeypatch):
    monkeypatch.setattr(gate, "MAX_LARGE", 2)
    pending = page.blocks._queue.pending_event_ids_session
    for number in range(6):
        values = [("png", "", "", "en"), ("json", "en")][number % 2]
        assert join(page, *values, session=f"saver{number}").status_code == 200
        assert len([name for name in pending if name.startswith("saver")]) <= 2
    assert read(page, "saver5")["success"]


def test_open_connections_are_limited(page, monkeypatch):
    with _heartbeat(page, "b") as first:
        assert first.status_code == 200
        monkeypatch.setattr(gate, "MAX_STREAMS", 1)
        with _heartbeat(page, "c") as second:
            assert second.status_code == 503
    assert page.client.get(f"{page.api}queue/data", params={"session_hash": "../x"}).status_code == 400
    assert page.client.get(f"{page.api}queue/data").status_code == 400


def test_results_are_read_by_one_connection_and_only_if_there_are_any(page, monkeypatch):
    answered = threading.Event()

    def wait(_: str) -> None:
        answered.wait(SECONDS)
        raise UserError("no_picture")

    def status_of_second_reader() -> int:
        return page.client.get(f"{page.api}queue/data", params={"session_hash": "reader"}).status_code

    monkeypatch.setattr(page.blocks.conversations, "of", wait)
    assert status_of_second_reader() == 404
    assert join(page, "json", "en", session="reader").status_code == 200
    with page.client.stream("GET", f"{page.api}queue/data", params={"session_hash": "reader"}) as lines:
        data = lines.iter_lines()
        assert next(data) and status_of_second_reader() == 409
        answered.set()
        assert any("process_completed" in line for line in data)


@contextmanager
def _heartbeat(page, session: str) -> Iterator[httpx.Response]:
    with page.client.stream("GET", f"{page.api}heartbeat/{session}") as answer:
        yield answer
