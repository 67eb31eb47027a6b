"""Requests to the running page over HTTP."""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
from picture_files import SCENE

SECONDS = 60


def event_number(page, name: str) -> int:
    return next(number for number, event in page.blocks.fns.items() if event.api_name == name)


def upload(page, content: bytes = b"", name: str = "scene.png") -> httpx.Response:
    return page.client.post(f"{page.api}upload", files={"files": (name, content or SCENE.read_bytes())})


def run(page, name: str, *values: Any, session: str = "a", **more: Any) -> httpx.Response:
    body = {"data": list(values), "fn_index": event_number(page, name), "session_hash": session, **more}
    return page.client.post(f"{page.api}run/{name}", json=body)


def join(page, name: str, *values: Any, session: str = "a", **more: Any) -> httpx.Response:
    body = {"data": list(values), "fn_index": event_number(page, name), "session_hash": session, **more}
    return page.client.post(f"{page.api}queue/join", json=body)


def read(page, session: str = "a") -> dict[str, Any]:
    """Return the result of the session's event."""
    query = {"session_hash": session}
    with page.client.stream("GET", f"{page.api}queue/data", params=query) as lines:
        for line in lines.iter_lines():
            data = json.loads(line.removeprefix("data:")) if line else {}
            if data.get("msg") == "process_completed":
                return data
    raise AssertionError("the stream ended without an answer")


def call(page, name: str, *values: Any, session: str = "a", **more: Any) -> dict[str, Any]:
    assert join(page, name, *values, session=session, **more).status_code == 200
    return read(page, session)


def open_picture(page, session: str) -> dict[str, Any]:
    assert run(page, "receive", upload(page).json()[0], session=session).status_code == 200
    return call(page, "open", "en", session=session)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until, "the condition was not met in time"
        time.sleep(0.05)
