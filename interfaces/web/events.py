"""Events of the page. Errors of the user become a message on the page, in the page's language."""

import functools
import inspect
import io
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from gemma_lisa.images_gemma_lisa import pixel_limit

from .cards import CARDS, Card
from .conversations import Conversation, Conversations, Turn, UserError
from .layers import shown_picture
from .parts import NO_MASKS, file_of, turns_of, viewer_of
from .translations import WORDS, words_of

logger = logging.getLogger(__name__)

MAX_NUMBER = 2**53  # JavaScript represents integers exactly only below this
MAX_LIST = 4096  # characters of a list of masks
UNCHANGED = gr.skip()


def guarded(event: Callable) -> Callable:
    """Wrap an event so that the user sees no details of an unexpected error. They are logged."""

    def error_of(arguments: tuple, keywords: dict[str, Any]) -> gr.Error:
        logger.exception("The event %s failed.", event.__name__)
        language = inspect.signature(event).bind(*arguments, **keywords).arguments.get("language")
        return gr.Error(words_of(language)["unknown"], print_exception=False)

    @functools.wraps(event)
    def run(*arguments: Any, **keywords: Any) -> Any:
        try:
            return event(*arguments, **keywords)
        except Exception:
            raise error_of(arguments, keywords) from None

    @functools.wraps(event)
    def stream(*arguments: Any, **keywords: Any) -> Iterator[Any]:
        try:
            yield from event(*arguments, **keywords)
        except Exception:
            raise error_of(arguments, keywords) from None

    return stream if inspect.isgeneratorfunction(event) else run


class Events:
    """Each method is one event of the page. Its docstring names the components that it updates, in order.

    Args:
        conversations: all conversations.
        cards: the example cards of the page.
    """

    def __init__(self, conversations: Conversations, cards: Sequence[Card] = CARDS):
        self.conversations = conversations
        self.cards = cards

    @guarded
    def receive(self, identifier: str | None, request: gr.Request) -> None:
        """Assign an uploaded picture to the session. It waits until the queue reaches the event `open`."""
        if identifier is not None:
            self.conversations.uploads.claim(identifier, request.session_hash)

    @guarded
    def open(self, language: str, request: gr.Request) -> tuple:
        """Start a conversation about the uploaded picture. Updates viewer, turns, message, actions, start."""
        if (upload := self.conversations.uploads.take(request.session_hash)) is None:
            return self._refused(language, UserError("lost"))
        return self._begin(*upload, language, request, focus="question")

    @guarded
    def choose(self, language: str, request: gr.Request, event: gr.EventData) -> Iterator[tuple]:
        """Open the picture of a card and ask its question.

        Updates viewer, turns, message, actions, start, question, stop.
        """
        try:
            card = self.cards[integer_of(event, "card", len(self.cards))]
        except UserError as error:
            yield *self._refused(language, error), UNCHANGED, UNCHANGED
            return
        begun = self._begin(card.path.read_bytes(), card.path.name, language, request, focus="turns")
        yield *begun, "", UNCHANGED
        for viewer, turns, text, question, stop in self._answers(card.question, language, request):
            yield viewer, turns, text, UNCHANGED, UNCHANGED, question, stop

    @guarded
    def ask(self, question: str, language: str, request: gr.Request) -> Iterator[tuple]:
        """Show the answer while it is written. Updates viewer, turns, message, question, stop."""
        yield from self._answers(question, language, request)

    @guarded
    def stop(self, language: str, request: gr.Request) -> str:
        """Stop the answer that is being written; `ask` ends after the next token. Updates message."""
        try:
            self.conversations.of(request.session_hash).stopped = True
        except ValueError as error:
            return message_of(error, language)
        return ""

    @guarded
    def correct(self, language: str, request: gr.Request, event: gr.EventData) -> tuple:
        """Correct a mask with a point in the picture. Updates viewer, message."""
        try:
            conversation = self.conversations.of(request.session_hash)
            turn, mask = integer_of(event, "turn"), integer_of(event, "mask")
            x, y, label = number_of(event, "x"), number_of(event, "y"), integer_of(event, "label", 2)
            conversation.correct(turn, mask, (x, y, label))
        except ValueError as error:
            return UNCHANGED, message_of(error, language)
        return viewer_of(conversation, turn), ""

    @guarded
    def undo(self, language: str, request: gr.Request) -> tuple:
        """Undo the last correction. Updates viewer, message."""
        try:
            conversation = self.conversations.of(request.session_hash)
            turn = conversation.undo()
        except ValueError as error:
            return UNCHANGED, message_of(error, language)
        return viewer_of(conversation, turn), ""

    @guarded
    def show(self, language: str, request: gr.Request, event: gr.EventData) -> tuple:
        """Show the masks of an earlier answer. Updates viewer, turns, message."""
        try:
            conversation = self.conversations.of(request.session_hash)
            turn = integer_of(event, "turn", len(conversation.turns))
            return viewer_of(conversation, turn), turns_of(conversation, turn), ""
        except ValueError as error:
            return UNCHANGED, UNCHANGED, message_of(error, language)

    @guarded
    def restart(self, language: str, request: gr.Request) -> tuple:
        """Start a new conversation about the same picture. Updates viewer, turns, message."""
        try:
            conversation = self.conversations.of(request.session_hash)
        except ValueError as error:
            return UNCHANGED, UNCHANGED, message_of(error, language)
        conversation.restart()
        return NO_MASKS, turns_of(conversation, -1), ""

    @guarded
    def close(self, request: gr.Request) -> tuple:
        """End the conversation, so that the user can open another picture.

        Updates viewer, turns, message, actions, start.
        """
        self.conversations.close(request.session_hash)
        return (
            NO_MASKS | {"picture": None, "focus": "upload"},
            {"turns": [], "shown": -1},
            "",
            gr.update(visible=False),
            gr.update(visible=True),
        )

    @guarded
    def save_picture(self, shown: str, hidden: str, language: str, request: gr.Request) -> tuple:
        """Save the answer that is shown as PNG. Updates viewer, message.

        Args:
            shown: index of the turn, counted from 0; the last turn if empty.
            hidden: indices of the hidden masks, counted from 0 and separated by commas.
            language: language of the page.
            request: request of the session.
        """
        try:
            conversation = self.conversations.of(request.session_hash)
            turn, *indices = integers_in(f"{shown or len(conversation.turns) - 1},{hidden or ''}")
            picture = conversation.picture(turn, set(indices), WORDS["en"]["hidden"])
        except ValueError as error:
            return UNCHANGED, message_of(error, language)
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        return file_of(f"{Path(conversation.name).stem}-answer.png", "image/png", buffer.getvalue()), ""

    @guarded
    def save_json(self, language: str, request: gr.Request) -> tuple:
        """Save all answers of the conversation in the format of predict.py. Updates viewer, message."""
        try:
            conversation = self.conversations.of(request.session_hash)
            if not conversation.turns:
                raise UserError("no_answer")
        except ValueError as error:
            return UNCHANGED, message_of(error, language)
        content = json.dumps(conversation.records(), indent=2, ensure_ascii=False) + "\n"
        return file_of(f"{Path(conversation.name).stem}-answers.json", "application/json", content.encode("utf-8")), ""

    def _begin(self, content: bytes, name: str, language: str, request: gr.Request, focus: str) -> tuple:
        """Open a picture. Updates the components of `open`; `focus` is the component that gets the keyboard focus."""
        try:
            conversation = self.conversations.open(request.session_hash, content, name)
        except ValueError as error:
            return self._refused(language, error, name)
        picture = conversation.session.image
        is_blank = all(low == high for low, high in picture.getextrema())
        return (
            NO_MASKS | {"picture": shown_picture(picture), "focus": focus},
            turns_of(conversation, -1),
            words_of(language)["blank_picture"] if is_blank else "",
            gr.update(visible=True),
            gr.update(visible=False),
        )

    def _refused(self, language: str, error: ValueError, name: str = "") -> tuple:
        """Show why a picture cannot be opened. Updates the components of `open`."""
        words = words_of(language)
        if isinstance(error.__cause__, Image.DecompressionBombError | Image.DecompressionBombWarning):
            line = words["too_large"].format(name=name, limit=pixel_limit())
        elif isinstance(error, UserError):
            line = words[error.key]
        else:
            line = words["unreadable"].format(reason=error)
        return UNCHANGED, UNCHANGED, line, UNCHANGED, UNCHANGED

    def _answers(self, question: str, language: str, request: gr.Request) -> Iterator[tuple]:
        """Ask a question. Updates the components of `ask` after each token."""
        try:
            conversation = self.conversations.of(request.session_hash)
            turns = conversation.ask(question)
        except ValueError as error:
            yield UNCHANGED, UNCHANGED, message_of(error, language), UNCHANGED, UNCHANGED
            return
        at = len(conversation.turns)
        waiting = Turn(question, {}, [""], 0, [])
        yield UNCHANGED, turns_of(conversation, at, waiting), "", "", gr.update(visible=True)
        try:
            yield from _while_written(conversation, turns)
        except ValueError as error:
            viewer = viewer_of(conversation, at - 1) if at else NO_MASKS
            line = message_of(error, language)
            yield viewer, turns_of(conversation, at - 1), line, question, gr.update(visible=False)
            return
        yield viewer_of(conversation, at), turns_of(conversation, at), UNCHANGED, UNCHANGED, gr.update(visible=False)


def _while_written(conversation: Conversation, turns: Iterator[Turn]) -> Iterator[tuple]:
    """Update the components of `ask` after each token; the viewer only if there is a new mask."""
    at, n_masks = len(conversation.turns), -1
    for turn in turns:
        viewer = UNCHANGED
        if len(turn.masks) != n_masks:
            n_masks = len(turn.masks)
            viewer = viewer_of(conversation, at, turn)
        yield viewer, turns_of(conversation, at, turn), UNCHANGED, UNCHANGED, UNCHANGED


def message_of(error: ValueError, language: str) -> str:
    """Return the message for an error of the user."""
    words = words_of(language)
    if isinstance(error, UserError):
        return words[error.key].format(**error.values)
    return words["cannot"].format(reason=error)


def integer_of(event: gr.EventData, name: str, limit: int = 2**31) -> int:
    """Return an integer of the event data.

    Raises:
        UserError: it is missing, or not an integer from 0 to below `limit`.
    """
    value = number_of(event, name)
    if value != int(value) or not 0 <= value < limit:
        raise UserError("bad_event")
    return int(value)


def number_of(event: gr.EventData, name: str) -> float:
    """Return a number of the event data.

    Raises:
        UserError: it is missing, or not a finite number.
    """
    try:
        value = getattr(event, name)
    except (AttributeError, TypeError):  # TypeError: there is no event data
        raise UserError("bad_event") from None
    # The comparison is also False for NaN
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MAX_NUMBER:
        raise UserError("bad_event")
    return value


def integers_in(text: str) -> list[int]:
    """Return integers that are separated by commas.

    Raises:
        UserError: the text is something else.
    """
    numbers = [part for part in text.split(",") if part]
    if len(text) > MAX_LIST or not all(re.fullmatch("-?[0-9]{1,9}", number) for number in numbers):
        raise UserError("bad_event")
    return [int(number) for number in numbers]
