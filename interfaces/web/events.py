"""What the page's buttons do; what a visitor did wrong becomes a line on the page, in the page's language."""

import functools
import inspect
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from gemma_lisa.images_gemma_lisa import pixel_limit

from .conversations import Conversations, Refused, Turn
from .layers import shown_picture
from .parts import NOTHING_SHOWN, SCENES, file_of, message, stage_of, talk_of
from .translations import WORDS, words_of

logger = logging.getLogger(__name__)

LARGEST = 2**53  # of a number that a part of the page tells: JavaScript counts no further
MAX_NUMBERS = 4096  # characters of a list of masks


def guarded(event: Callable) -> Callable:
    """The event; of an unknown fault the visitor learns only that there was one, and the log has the rest."""

    def failed(arguments: tuple, keywords: dict[str, Any]) -> gr.Error:
        logger.exception("The event %s failed.", event.__name__)
        language = inspect.signature(event).bind(*arguments, **keywords).arguments.get("language")
        return gr.Error(words_of(language)["unknown"], print_exception=False)

    @functools.wraps(event)
    def answered(*arguments: Any, **keywords: Any) -> Any:
        try:
            return event(*arguments, **keywords)
        except Exception:
            raise failed(arguments, keywords) from None

    @functools.wraps(event)
    def told(*arguments: Any, **keywords: Any) -> Iterator[Any]:
        try:
            yield from event(*arguments, **keywords)
        except Exception:
            raise failed(arguments, keywords) from None

    return told if inspect.isgeneratorfunction(event) else answered


class Events:
    """Each method is one event of the page; its last sentence says which parts it changes, in order.

    Args:
        conversations: where conversations are kept.
    """

    def __init__(self, conversations: Conversations):
        self.conversations = conversations

    @guarded
    def receive(self, number: str | None, request: gr.Request) -> None:
        """A picture was uploaded; `number` is what its sender got for it. It waits for its turn in the queue."""
        if number is not None:
            self.conversations.uploads.claim(number, request.session_hash)

    @guarded
    def open(self, language: str, request: gr.Request) -> tuple:
        """What was put in is to be talked about. Of stage, talk, message, conversation, start."""
        if (brought := self.conversations.uploads.take(request.session_hash)) is None:
            return self._refused(language, Refused("lost"))
        return self._begin(*brought, language, request)

    @guarded
    def choose(self, language: str, request: gr.Request, event: gr.EventData) -> tuple:
        """A drawing was chosen: its question goes into the box."""
        try:
            path, question = SCENES[number_of(event, "scene", len(SCENES))]
        except Refused as error:
            return *self._refused(language, error), gr.skip()
        return *self._begin(path.read_bytes(), path.name, language, request), question

    @guarded
    def ask(self, question: str, language: str, request: gr.Request) -> Iterator[tuple]:
        """The answer as it comes. Of stage, talk, message, question, stop."""
        try:
            conversation = self.conversations.of(request.session_hash)
            answers = conversation.ask(question)
        except ValueError as error:
            yield gr.skip(), gr.skip(), said(error, language), gr.skip(), gr.skip()
            return
        at, masks = len(conversation.turns), -1
        asked = Turn(question, {"complete": True}, [""], 0, [])
        yield gr.skip(), talk_of(conversation, at, asked), "", "", gr.update(visible=True)
        try:
            for turn in answers:
                stage = gr.skip()
                if len(turn.masks) != masks:
                    masks = len(turn.masks)
                    stage = stage_of(conversation, at, turn)
                yield stage, talk_of(conversation, at, turn), *(gr.skip() for _ in range(3))
        except ValueError as error:
            stage = stage_of(conversation, at - 1) if at else NOTHING_SHOWN
            yield stage, talk_of(conversation, at - 1), said(error, language), question, gr.update(visible=False)
            return
        stage, talk = stage_of(conversation, at), talk_of(conversation, at)
        yield stage, talk, gr.skip(), gr.skip(), gr.update(visible=False)

    @guarded
    def stop(self, language: str, request: gr.Request) -> str:
        """The answer that is being written is not wanted; `ask` sees it after the next word. Of message."""
        try:
            self.conversations.of(request.session_hash).stopped = True
        except ValueError as error:
            return said(error, language)
        return ""

    @guarded
    def point(self, language: str, request: gr.Request, event: gr.EventData) -> tuple:
        """A click on the picture corrects a mask. Of stage, message."""
        try:
            conversation = self.conversations.of(request.session_hash)
            turn, mask = number_of(event, "turn"), number_of(event, "mask")
            conversation.correct(turn, mask, (place_of(event, "x"), place_of(event, "y"), number_of(event, "label", 2)))
        except ValueError as error:
            return gr.skip(), said(error, language)
        return stage_of(conversation, turn), ""

    @guarded
    def undo(self, language: str, request: gr.Request) -> tuple:
        """Of stage, message."""
        try:
            conversation = self.conversations.of(request.session_hash)
            turn = conversation.undo()
        except ValueError as error:
            return gr.skip(), said(error, language)
        return stage_of(conversation, turn), ""

    @guarded
    def show(self, language: str, request: gr.Request, event: gr.EventData) -> tuple:
        """An earlier answer's masks are wanted. Of stage, talk, message."""
        try:
            conversation = self.conversations.of(request.session_hash)
            turn = number_of(event, "turn", len(conversation.turns))
            return stage_of(conversation, turn), talk_of(conversation, turn), ""
        except ValueError as error:
            return gr.skip(), gr.skip(), said(error, language)

    @guarded
    def forget(self, language: str, request: gr.Request) -> tuple:
        """A new conversation about the same picture. Of stage, talk, message."""
        try:
            conversation = self.conversations.of(request.session_hash)
        except ValueError as error:
            return gr.skip(), gr.skip(), said(error, language)
        conversation.forget()
        return NOTHING_SHOWN, talk_of(conversation, -1), ""

    @guarded
    def leave(self, request: gr.Request) -> tuple:
        """Another picture is wanted. Of stage, talk, message, conversation, start."""
        self.conversations.leave(request.session_hash)
        return (
            NOTHING_SHOWN | {"picture": None},
            {"turns": [], "shown": -1},
            "",
            gr.update(visible=False),
            gr.update(visible=True),
        )

    @guarded
    def save_picture(self, shown: str, hidden: str, language: str, request: gr.Request) -> tuple:
        """The answer that is shown, as PNG; `hidden`: indices of masks, from 0, by commas. Of stage, message."""
        try:
            conversation = self.conversations.of(request.session_hash)
            turn, *indices = numbers_in(f"{shown or len(conversation.turns) - 1},{hidden or ''}")
            picture = conversation.picture(turn, set(indices), WORDS["en"]["hidden"])
        except ValueError as error:
            return gr.skip(), said(error, language)
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        return file_of(f"{Path(conversation.name).stem}-answer.png", "image/png", buffer.getvalue()), ""

    @guarded
    def save_json(self, language: str, request: gr.Request) -> tuple:
        """All answers of the conversation, as predict.py writes them. Of stage, message."""
        try:
            conversation = self.conversations.of(request.session_hash)
            if not conversation.turns:
                raise Refused("no_answer")
        except ValueError as error:
            return gr.skip(), said(error, language)
        content = json.dumps(conversation.records(), indent=2, ensure_ascii=False) + "\n"
        return file_of(f"{Path(conversation.name).stem}-answers.json", "application/json", content.encode("utf-8")), ""

    def _begin(self, content: bytes, name: str, language: str, request: gr.Request) -> tuple:
        """As `open`."""
        try:
            conversation = self.conversations.open(request.session_hash, content, name)
        except ValueError as error:
            return self._refused(language, error, name)
        return (
            NOTHING_SHOWN | {"picture": shown_picture(conversation.session.image)},
            talk_of(conversation, -1),
            "",
            gr.update(visible=True),
            gr.update(visible=False),
        )

    def _refused(self, language: str, error: ValueError, name: str = "") -> tuple:
        """As `open`, of a picture that cannot be used."""
        words = words_of(language)
        if isinstance(error.__cause__, Image.DecompressionBombError | Image.DecompressionBombWarning):
            line = words["too_large"].format(name=name, limit=pixel_limit())
        elif isinstance(error, Refused):
            line = words[error.reason]
        else:
            line = words["unreadable"].format(reason=error)
        return gr.skip(), gr.skip(), message(line), gr.skip(), gr.skip()


def said(error: ValueError, language: str) -> str:
    """What went wrong, for the visitor."""
    words = words_of(language)
    if isinstance(error, Refused):
        return message(words[error.reason].format(**error.values))
    return message(words["cannot"].format(reason=error))


def number_of(event: gr.EventData, name: str, limit: int = 2**31) -> int:
    """The whole number from 0 to below `limit` that a part of the page told under that name.

    Raises:
        Refused: it told none.
    """
    value = place_of(event, name)
    if value != int(value) or not 0 <= value < limit:
        raise Refused("bad_event")
    return int(value)


def place_of(event: gr.EventData, name: str) -> float:
    """The number that a part of the page told under that name.

    Raises:
        Refused: it told none.
    """
    try:
        value = getattr(event, name)
    except (AttributeError, TypeError):  # TypeError: it told nothing at all
        raise Refused("bad_event") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST:  # nor a NaN
        raise Refused("bad_event")
    return value


def numbers_in(text: str) -> list[int]:
    """Whole numbers with commas between them.

    Raises:
        Refused: anything else.
    """
    numbers = [part for part in text.split(",") if part]
    if len(text) > MAX_NUMBERS or not all(re.fullmatch("-?[0-9]{1,9}", number) for number in numbers):
        raise Refused("bad_event")
    return [int(number) for number in numbers]
