"""What the page's buttons do; what a visitor did wrong becomes a line on the page, in the page's language."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
from PIL import Image

from ..images_gemma_lisa import pixel_limit
from .layers import shown_picture
from .parts import NOTHING_SHOWN, SCENES, file_of, message, stage_of, talk_of
from .visits import Refused, Turn, Visits
from .words import WORDS


class Events:
    """Each method is one event of the page; its last sentence says which parts it changes, in order.

    Args:
        visits: where conversations are kept.
    """

    def __init__(self, visits: Visits):
        self.visits = visits

    def receive(self, path: str | None, request: gr.Request) -> None:
        """A picture was put in: its file is read at once, for it is removed soon, and the queue may be long."""
        if path is not None and Path(path).is_file():
            self.visits.bring(request.session_hash, Path(path).read_bytes(), Path(path).name)

    def open(self, language: str, request: gr.Request) -> tuple:
        """What was put in is to be talked about. Of stage, talk, message, upload, conversation, start, key."""
        try:
            content, name = self.visits.brought(request.session_hash)
        except Refused as error:
            return self._refused(language, error)
        return self._begin(content, name, language, request)

    def choose(self, language: str, request: gr.Request, event: gr.EventData) -> tuple:
        """A drawing was chosen: its question goes into the box."""
        path, question = SCENES[event.scene]
        return *self._begin(path.read_bytes(), path.name, language, request), question

    def ask(self, question: str, language: str, request: gr.Request) -> Iterator[tuple]:
        """The answer as it comes. Of stage, talk, message, question, key, stop."""
        key = request.session_hash
        try:
            visit = self.visits.of(key)
            answers = visit.ask(question)
        except ValueError as error:
            yield gr.skip(), gr.skip(), said(error, language), gr.skip(), key, gr.skip()
            return
        at, masks = len(visit.turns), -1
        yield (
            gr.skip(),
            talk_of(visit, at, Turn(question, {"complete": True}, [""], 0, [])),
            "",
            "",
            key,
            gr.update(visible=True),
        )
        try:
            for turn in answers:
                stage = gr.skip()
                if len(turn.points) != masks:
                    masks = len(turn.points)
                    stage = stage_of(visit, at, turn)
                yield stage, talk_of(visit, at, turn), *(gr.skip() for _ in range(4))
        except ValueError as error:
            stage = stage_of(visit, at - 1) if at else NOTHING_SHOWN
            yield stage, talk_of(visit, at - 1), said(error, language), question, key, gr.update(visible=False)
            return
        yield stage_of(visit, at), talk_of(visit, at), *(gr.skip() for _ in range(3)), gr.update(visible=False)

    def stop(self, language: str, request: gr.Request) -> str:
        """The answer that is being written is not wanted; `ask` sees it after the next word. Of message."""
        try:
            self.visits.of(request.session_hash).stopped = True
        except ValueError as error:
            return said(error, language)
        return ""

    def point(self, language: str, request: gr.Request, event: gr.EventData) -> tuple:
        """A click on the picture corrects a mask. Of stage, message, key."""
        key = request.session_hash
        try:
            visit = self.visits.of(key)
            visit.correct(int(event.turn), int(event.mask), (float(event.x), float(event.y), int(event.label)))
        except ValueError as error:
            return gr.skip(), said(error, language), key
        return stage_of(visit, int(event.turn)), "", key

    def undo(self, language: str, request: gr.Request) -> tuple:
        """Of stage, message, key."""
        key = request.session_hash
        try:
            visit = self.visits.of(key)
            turn = visit.undo()
        except ValueError as error:
            return gr.skip(), said(error, language), key
        return stage_of(visit, turn), "", key

    def show(self, language: str, request: gr.Request, event: gr.EventData) -> tuple:
        """An earlier answer's masks are wanted. Of stage, talk, message."""
        try:
            visit = self.visits.of(request.session_hash)
            return stage_of(visit, int(event.turn)), talk_of(visit, int(event.turn)), ""
        except ValueError as error:
            return gr.skip(), gr.skip(), said(error, language)

    def forget(self, language: str, request: gr.Request) -> tuple:
        """A new conversation about the same picture. Of stage, talk, message, key."""
        key = request.session_hash
        try:
            visit = self.visits.of(key)
        except ValueError as error:
            return gr.skip(), gr.skip(), said(error, language), key
        visit.forget()
        return NOTHING_SHOWN, talk_of(visit, -1), "", key

    def leave(self, request: gr.Request) -> tuple:
        """Another picture is wanted. Of stage, talk, message, upload, conversation, start."""
        self.visits.leave(request.session_hash)
        return (
            NOTHING_SHOWN | {"picture": None},
            {"turns": [], "shown": -1},
            "",
            None,
            gr.update(visible=False),
            gr.update(visible=True),
        )

    def save_picture(self, shown: str, hidden: str, language: str, request: gr.Request) -> tuple:
        """The answer that is shown, as PNG; `hidden`: indices of masks, from 0, by commas. Of stage, message."""
        try:
            visit = self.visits.of(request.session_hash)
            indices = {int(index) for index in hidden.split(",") if index}
            picture = visit.picture(int(shown) if shown else len(visit.turns) - 1, indices, WORDS["en"]["hidden"])
        except ValueError as error:
            return gr.skip(), said(error, language)
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        return file_of(f"{Path(visit.name).stem}-answer.png", "image/png", buffer.getvalue()), ""

    def save_json(self, language: str, request: gr.Request) -> tuple:
        """All answers of the conversation, as predict.py writes them. Of stage, message."""
        try:
            visit = self.visits.of(request.session_hash)
            if not visit.turns:
                raise Refused("no_answer")
        except ValueError as error:
            return gr.skip(), said(error, language)
        content = json.dumps([turn.answer for turn in visit.turns], indent=2, ensure_ascii=False) + "\n"
        return file_of(f"{Path(visit.name).stem}-answers.json", "application/json", content.encode("utf-8")), ""

    def _begin(self, content: bytes, name: str, language: str, request: gr.Request) -> tuple:
        """As `open`."""
        try:
            visit = self.visits.open(request.session_hash, content, name)
        except ValueError as error:
            return self._refused(language, error, name)
        return (
            NOTHING_SHOWN | {"picture": shown_picture(visit.session.image)},
            talk_of(visit, -1),
            "",
            None,
            gr.update(visible=True),
            gr.update(visible=False),
            request.session_hash,
        )

    def _refused(self, language: str, error: ValueError, name: str = "") -> tuple:
        """As `open`, of a picture that cannot be used."""
        words = WORDS[language]
        if isinstance(error.__cause__, Image.DecompressionBombError | Image.DecompressionBombWarning):
            line = words["too_large"].format(name=name, limit=pixel_limit())
        elif isinstance(error, Refused):
            line = words[error.reason]
        else:
            line = words["unreadable"].format(reason=error)
        skipped = (gr.skip() for _ in range(3))
        return gr.skip(), gr.skip(), message(line), None, *skipped


def said(error: ValueError, language: str) -> str:
    """What went wrong, for the visitor."""
    words = WORDS[language]
    if isinstance(error, Refused):
        return message(words[error.reason].format(**error.values))
    return message(words["cannot"].format(reason=error))
