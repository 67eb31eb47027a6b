"""Filter of HTTP requests. Only requests that the page itself sends reach Gradio.

Gradio has routes that read files, write files and fetch URLs for a client, and it accepts file objects in the values
of every event. The page does not need them: every value is text, and pictures arrive by `uploads.receive_upload`.
"""

import asyncio
import json
import math
import re
from collections import Counter
from typing import Any
from urllib.parse import parse_qs, urlencode

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

API = "/gradio_api"
UPLOAD = f"{API}/upload"
# Read-only: the page, its scripts and styles, and its description for API clients
READ = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/(static|assets)/[^\\]+"
    rf"|{API}/(info/?|theme\.css|app_id/?|startup-events|queue/status)"
)
STREAM = re.compile(rf"{API}/(queue/data|heartbeat/(?P<session>[\w-]{{1,64}}))")
JOIN, CANCEL, RESET = f"{API}/queue/join", f"{API}/cancel", f"{API}/reset"
RUN = re.compile(rf"{API}/run/(?P<name>\w{{1,64}})/?")

MAX_BODY = 256 * 2**10  # bytes of the request of an event
BODY_TIMEOUT = 30  # seconds for this request to arrive
MAX_VALUES = 8  # input values of an event
MAX_EVENT_DATA = 16  # entries of the event data of a component
MAX_STREAMS = 1000  # connections that stay open, of all sessions
# Results that no client has read yet are kept in memory. Results with a picture are large
MAX_UNDELIVERED, MAX_UNDELIVERED_OF_SESSION = 128, 16
LARGE, MAX_LARGE = ("png", "json"), 8  # events that return a file, and how many of their results are kept
UNREAD = 60  # seconds after which results are deleted if their session has no open connection
IDENTIFIER = re.compile(r"[\w-]{1,64}", re.ASCII)


class Refusal(Exception):
    """Raised for a request that the page never sends, or that the server cannot accept now.

    Args:
        status: HTTP status code.
        reason: what is wrong and what is expected, sent to the client.
    """

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status, self.reason = status, reason


class Gate:
    """ASGI middleware in front of Gradio with an allow-list of routes and of request contents.

    Args:
        app: ASGI application that receives the allowed requests.
    """

    def __init__(self, app: ASGIApp):
        self.app = app
        self.open = 0  # number of open stream connections
        self.readers: Counter[str] = Counter()  # connections per session that read its results
        self.large: list[str] = []  # sessions that requested a file, oldest first
        self._timers: dict[str, asyncio.Task] = {}  # per session, started by its last event

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        try:
            await self._pass(scope, receive, send)
        except Refusal as refusal:
            response: Response = JSONResponse({"detail": refusal.reason}, refusal.status)
            await response(scope, receive, send)
        except ClientDisconnect:
            pass  # there is no client to answer

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        method = scope["method"]
        query = parse_qs(scope["query_string"].decode("latin-1"))
        scope = dict(scope, query_string=b"")  # Gradio would read files named in the query
        run = RUN.fullmatch(path)
        if method == "POST" and path == UPLOAD:
            await self.app(scope, receive, send)
        elif method == "POST" and (run or path in (JOIN, CANCEL, RESET)):
            body = await _body_of(Request(scope, receive))
            if path != RESET and "session_hash" not in body:
                raise Refusal(400, "session_hash is missing. Expected 1 to 64 letters, digits, - or _.")
            if run or path == JOIN:
                blocks = scope["app"].get_blocks()
                event = _event_of(blocks.fns, body, run and run["name"])
                if path == JOIN:
                    await self._make_room(blocks._queue, body["session_hash"], event.api_name in LARGE)
            await self.app(*_with_body(scope, receive, body), send)
        elif method == "GET" and (stream := STREAM.fullmatch(path)):
            session = stream["session"] or (query.get("session_hash") or [""])[0]
            await self._stream(scope, receive, send, session, is_reader=stream["session"] is None)
        elif method in ("GET", "HEAD") and READ.fullmatch(path) and ".." not in path:
            await self.app(scope, receive, send)
        else:
            raise Refusal(404, "The page has no such route.")

    async def _stream(self, scope: Scope, receive: Receive, send: Send, session: str, is_reader: bool) -> None:
        """Serve a connection that stays open until all results are sent, or as long as the page is open."""
        if not IDENTIFIER.fullmatch(session):
            raise Refusal(400, "session_hash must be 1 to 64 letters, digits, - or _.")
        if is_reader and session not in scope["app"].get_blocks()._queue.pending_messages_per_session:
            raise Refusal(404, "This session has no results to read.")  # Gradio would log 10 KB about it
        if is_reader and self.readers[session]:
            raise Refusal(409, "Another connection is reading the results of this session.")
        if self.open >= MAX_STREAMS:
            raise Refusal(503, "The server has too many open connections. Try again in a minute.")
        self.open += 1
        self.readers[session] += is_reader
        try:
            await self.app(dict(scope, query_string=urlencode({"session_hash": session}).encode()), receive, send)
        finally:
            self.open -= 1
            self.readers[session] -= is_reader
            self.readers += Counter()  # drop the sessions at 0

    async def _make_room(self, queue: Any, session: str, is_large: bool) -> None:
        """Delete unread results before an event is queued, so that their number stays below the limits.

        Raises:
            Refusal: the limit is reached and no result can be deleted.
        """
        pending = queue.pending_event_ids_session
        if len(pending.get(session, ())) >= MAX_UNDELIVERED_OF_SESSION:
            raise Refusal(503, "This session has too many unread results. Read them first.")
        while sum(map(len, pending.values())) >= MAX_UNDELIVERED:
            await self._delete_first_unread(queue, [other for other in pending if pending[other]])
        if is_large:
            while len(large := [other for other in self.large if pending.get(other)]) >= MAX_LARGE:
                await self._delete_first_unread(queue, large)
            self.large = [*large, session]
        if (timer := self._timers.get(session)) is not None:
            timer.cancel()
        self._timers[session] = asyncio.create_task(self._delete_if_unread(queue, session))

    async def _delete_first_unread(self, queue: Any, sessions: list[str]) -> None:
        unread = [session for session in sessions if not self.readers[session]]
        if not unread:
            raise Refusal(503, "The server has too many requests. Try again in a minute.")
        await self._delete_results(queue, unread[0])

    async def _delete_if_unread(self, queue: Any, session: str) -> None:
        await asyncio.sleep(UNREAD)
        del self._timers[session]
        if not self.readers[session]:
            await self._delete_results(queue, session)

    async def _delete_results(self, queue: Any, session: str) -> None:
        await queue.clean_events(session_hash=session)
        queue.pending_event_ids_session.pop(session, None)
        queue.pending_messages_per_session.pop(session, None)


async def _body_of(request: Request) -> dict[str, Any]:
    """Return the fields of an event's request that the page uses.

    Raises:
        Refusal: the page never sends such a request.
    """
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "Send the event as application/json.")
    content = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for chunk in request.stream():
                content += chunk
                if len(content) > MAX_BODY:
                    raise Refusal(413, f"The request is too large. An event can have at most {MAX_BODY:,} bytes.")
    except TimeoutError:
        raise Refusal(408, f"The request took longer than {BODY_TIMEOUT} seconds.") from None
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        raise Refusal(400, "The event is not valid JSON.") from None
    if not isinstance(body, dict):
        raise Refusal(400, "The event must be a JSON object.")
    return _checked(body)


def _checked(body: dict[str, Any]) -> dict[str, Any]:
    """Check the fields that the page uses and return them. Other fields, which Gradio would obey, are dropped."""
    data, event_data = body.get("data", []), body.get("event_data")
    if not isinstance(data, list) or len(data) > MAX_VALUES:
        raise Refusal(400, f"data must be a list of at most {MAX_VALUES} values.")
    if event_data is not None and (not isinstance(event_data, dict) or len(event_data) > MAX_EVENT_DATA):
        raise Refusal(400, f"event_data must be an object of at most {MAX_EVENT_DATA} numbers.")
    checked = {
        "data": [_text_of(value) for value in data],
        "event_data": event_data and {_text_of(name): _number_of(value) for name, value in event_data.items()},
    }
    for name in ("fn_index", "trigger_id"):
        if (number := body.get(name)) is not None:
            if type(number) is not int or not 0 <= number < 2**31:
                raise Refusal(400, f"{name} must be an integer from 0 to below 2**31.")
            checked[name] = number
    for name in ("session_hash", "event_id"):
        if (identifier := body.get(name)) is not None:
            if not (isinstance(identifier, str) and IDENTIFIER.fullmatch(identifier)):
                raise Refusal(400, f"{name} must be 1 to 64 letters, digits, - or _.")
            checked[name] = identifier
    return checked


def _event_of(events: dict[int, Any], body: dict[str, Any], name: str | None) -> Any:
    """Return the event that a request asks for.

    Args:
        events: events of the page by number.
        body: the request.
        name: name of the event, used if the request has no event number.

    Raises:
        Refusal: the page has no such event, or the number of values is wrong.
    """
    if "fn_index" in body:
        event = events.get(body["fn_index"])
    else:
        event = next((event for event in events.values() if event.api_name == name), None)
    if event is None:
        raise Refusal(404, "The page has no such event.")
    if len(body["data"]) != len(event.inputs):
        raise Refusal(400, f"The event takes {len(event.inputs)} values, got {len(body['data'])}.")
    return event


def _text_of(value: Any) -> str | None:
    """Return a value of an event: text or None. A file object, as API clients send it, becomes its identifier."""
    if isinstance(value, dict):
        value = value.get("path")
    if value is None:
        return None
    if not isinstance(value, str):
        raise Refusal(400, "A value of an event must be text.")
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _number_of(value: Any) -> float | int | None:
    if value is None or type(value) in (int, float) and abs(value) < 2**53 and math.isfinite(value):
        return value
    raise Refusal(400, "A value of event_data must be a finite number.")


def _with_body(scope: Scope, receive: Receive, body: dict[str, Any]) -> tuple[Scope, Receive]:
    """Return the request with another body."""
    content = json.dumps(body).encode("utf-8")
    headers = [
        (name, value) for name, value in scope["headers"] if name not in (b"content-length", b"transfer-encoding")
    ]
    waiting: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive_body() -> Message:
        return waiting.pop() if waiting else await receive()

    return dict(scope, headers=[*headers, (b"content-length", str(len(content)).encode())]), receive_body
