"""Conversations about pictures: one per session, in memory only, and limited in number.

This module knows the model but no web server. Each answer is kept as text and compressed masks. JSON and PNG files are
made when the user downloads them.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from gemma_lisa.answers_gemma_lisa import answer_status, phrases_of
from gemma_lisa.drawing.overlay import draw_answer, draw_overlay
from gemma_lisa.images_gemma_lisa import load_rgb
from gemma_lisa.interfaces.answer_json import record
from gemma_lisa.session_gemma_lisa import ImageSession, SessionMask

from .masks import KeptMask
from .uploads import Uploads

MAX_CONVERSATIONS = 32  # each keeps its picture (3 bytes per pixel) and Gemma's key-value cache
MAX_IDLE = 30 * 60  # seconds without a request after which a conversation is deleted
MAX_HELD_PIXELS = 400_000_000  # pixels of the pictures of all conversations
MAX_QUESTION = 500  # characters
MAX_NEW_TOKENS = 128  # tokens of an answer
MAX_TURNS = 32  # questions of a conversation
MAX_CORRECTIONS = 200  # points of a conversation
MAX_MASK_PIXELS = 500_000_000  # pixels of all masks of an answer; drawing takes one byte per pixel
TEXTS = ("text", "raw_text", "phrases", "complete", "status")  # the fields of an answer that are kept besides its masks


class UserError(ValueError):
    """Raised for a request that cannot be fulfilled, with a reason that the page can show.

    Args:
        key: key of the message in `translations.WORDS`.
        values: values that are inserted into the message.
    """

    def __init__(self, key: str, **values: Any):
        super().__init__(key)
        self.key, self.values = key, values


@dataclass
class Turn:
    """A question with its answer.

    Args:
        question: text of the user.
        answer: the fields TEXTS, as returned by the processor's `post_process_segmentation`.
        pieces: the answer, split at its `[SEG]` tokens. There is one more piece than there are masks.
        first: index of its first mask among those of the session.
        masks: masks of the answer, in order.
    """

    question: str
    answer: dict[str, Any]
    pieces: list[str]
    first: int
    masks: list[KeptMask]

    @property
    def names(self) -> list[str]:
        """Return the name of each mask: its phrase, or the question if it has none."""
        return [phrase or self.question for phrase in phrases_of(self.pieces)]

    @property
    def status(self) -> str:
        """Return the status of the answer with its current masks, which the user may have corrected."""
        return answer_status(self.answer["text"], self.answer["complete"], [mask.status for mask in self.masks])


@dataclass
class Conversation:
    """A picture and the conversation about it.

    Args:
        name: name of the picture's file.
        session: session of the model about this picture.
        turns: questions and answers, in order.
        corrections: what each correction replaced, oldest first: index of the turn, index of the mask, the session's
            state of the mask, the kept mask.
        stopped: True if the user has stopped the answer that is being written.
        used: time of the last request, from `time.monotonic`.
    """

    name: str
    session: ImageSession
    turns: list[Turn] = field(default_factory=list)
    corrections: list[tuple[int, int, SessionMask, KeptMask]] = field(default_factory=list)
    stopped: bool = False
    used: float = field(default_factory=time.monotonic)

    def ask(self, question: str) -> Iterator[Turn]:
        """Yield the turn after each token. It is added to the conversation when the answer is complete.

        Raises:
            UserError: the question is empty or too long, or the conversation is too long. While the answer is written:
                it was stopped, or it has too many masks.
        """
        if len(question) > MAX_QUESTION:
            raise UserError("long_question", length=len(question), limit=MAX_QUESTION)
        if not question.strip():
            raise UserError("no_question")
        if len(self.turns) >= MAX_TURNS:
            raise UserError("long_conversation", limit=MAX_TURNS)
        self.stopped = False
        return self._answer(question)

    def correct(self, turn: int, mask: int, point: tuple[float, float, int]) -> None:
        """Correct a mask with a point (x, y, label) in pixels: label 1 is foreground, 0 is background.

        Raises:
            ValueError: there is no such mask, the point is outside the picture, or there are too many points.
        """
        asked = self.turn(turn)
        if len(self.corrections) >= MAX_CORRECTIONS:
            raise UserError("many_clicks", limit=MAX_CORRECTIONS)
        if not 0 <= mask < len(asked.masks):
            raise ValueError(f"There is no mask {mask + 1}. The answer has {_count_masks(len(asked.masks))}.")
        number = asked.first + mask
        state, kept = self.session.masks[number], asked.masks[mask]
        corrected, score = self.session.correct(number, points=[point])
        asked.masks[mask] = KeptMask.pack(corrected.numpy(), mask, score, (*kept.points, point))
        self.corrections.append((turn, mask, state, kept))

    def undo(self) -> int:
        """Undo the last correction and return the index of its turn.

        Raises:
            UserError: there is no correction to undo.
        """
        if not self.corrections:
            raise UserError("nothing_to_undo")
        turn, mask, state, kept = self.corrections.pop()
        asked = self.turns[turn]
        self.session.masks[asked.first + mask] = state
        asked.masks[mask] = kept
        return turn

    def restart(self) -> None:
        """Delete all turns and keep the picture."""
        self.session.reset()
        self.turns, self.corrections = [], []

    def masks_of(self, turn: Turn) -> np.ndarray:
        """Return the masks of a turn, (K, H, W) bool."""
        masks = np.empty((len(turn.masks), self.session.image.height, self.session.image.width), dtype=bool)
        for mask, kept in zip(masks, turn.masks, strict=True):
            mask[:] = kept.unpack()
        return masks

    def records(self) -> list[dict[str, Any]]:
        """Return all answers in the format of predict.py's JSON file."""
        return [self._record(turn) for turn in self.turns]

    def picture(self, turn: int, hidden: set[int], hidden_label: str) -> Image.Image:
        """Draw the masks of an answer on the picture, with a legend.

        Args:
            turn: index of the turn.
            hidden: indices of masks that are listed in the legend but not drawn.
            hidden_label: text after the name of a hidden mask.
        """
        asked = self.turn(turn)
        masks = self.masks_of(asked)
        if not len(masks):
            return draw_answer(self.session.image, masks, asked.question, asked.answer["text"])
        labels = []
        for index, (name, kept) in enumerate(zip(asked.names, asked.masks, strict=True)):
            if index in hidden:
                masks[index] = False
            labels.append(f"{name} {kept.score:.2f}" if index not in hidden else f"{name} {hidden_label}")
        return draw_overlay(self.session.image, masks, labels)

    def turn(self, turn: int) -> Turn:
        """Return the turn with this index, counted from 0.

        Raises:
            UserError: there is no such turn.
        """
        if not 0 <= turn < len(self.turns):
            raise UserError("no_answer")
        return self.turns[turn]

    def _answer(self, question: str) -> Iterator[Turn]:
        first, n_messages = len(self.session.masks), len(self.session.messages)
        masks: list[KeptMask] = []
        for answer in self.session.stream(question, max_new_tokens=MAX_NEW_TOKENS):
            found, scores = answer["masks"], answer["scores"].tolist()
            if len(found) * self.session.image.width * self.session.image.height > MAX_MASK_PIXELS:
                raise UserError("many_masks", count=len(found))
            new = range(len(masks), len(found))  # each mask is compressed only once
            masks = [*masks, *(KeptMask.pack(found[index].numpy(), index, scores[index]) for index in new)]
            pieces = answer["raw_text"].split(self.session.processor.seg_token)
            turn = Turn(question, {name: answer[name] for name in TEXTS}, pieces, first, masks)
            yield turn
            if self.stopped and len(self.session.messages) == n_messages:  # the answer is not complete yet
                raise UserError("stopped")
        self.turns.append(turn)

    def _record(self, turn: Turn) -> dict[str, Any]:
        scores = torch.tensor([kept.score for kept in turn.masks])
        masks = {"masks": torch.from_numpy(self.masks_of(turn)), "scores": scores, "status": turn.status}
        return record(self.name, turn.question, turn.answer | masks)


def _count_masks(count: int) -> str:
    return "1 mask" if count == 1 else f"{count} masks"


class Conversations:
    """All conversations by session. If there are too many, the one that was idle for longest is deleted.

    Args:
        model, processor: a Gemma-LISA.
        limit: maximum number of conversations.
    """

    def __init__(self, model, processor, limit: int = MAX_CONVERSATIONS):
        self.model, self.processor, self.limit = model, processor, limit
        self.uploads = Uploads()  # pictures that are not opened yet
        self._conversations: OrderedDict[str, Conversation] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()  # sessions whose conversation was deleted
        self._lock = threading.Lock()

    def open(self, key: str, picture: Image.Image | str | bytes, name: str) -> Conversation:
        """Start a conversation about a picture. It replaces the previous conversation of the session.

        Raises:
            ValueError: the picture cannot be opened by `load_rgb`.
        """
        conversation = Conversation(name, ImageSession(self.model, self.processor, load_rgb(picture, name)))
        with self._lock:
            self._conversations[key] = conversation
            self._conversations.move_to_end(key)
            self._ended.pop(key, None)
            while len(self) > self.limit or len(self) > 1 and self._held_pixels() > MAX_HELD_PIXELS:
                self._end(next(iter(self._conversations)))
        return conversation

    def of(self, key: str) -> Conversation:
        """Return the conversation of a session.

        Raises:
            UserError: the session has no picture yet, or its conversation was deleted.
        """
        with self._lock:
            if key not in self._conversations:
                raise UserError("expired" if key in self._ended else "no_picture")
            self._conversations.move_to_end(key)
            conversation = self._conversations[key]
            conversation.used = time.monotonic()
            return conversation

    def close(self, key: str) -> None:
        """Delete the conversation of a session, because the user wants another picture."""
        with self._lock:
            self._conversations.pop(key, None)

    def expire(self, idle: float = MAX_IDLE) -> list[str]:
        """Delete the conversations without a request for `idle` seconds and return their sessions."""
        with self._lock:
            oldest = time.monotonic() - idle
            expired = [key for key, conversation in self._conversations.items() if conversation.used <= oldest]
            for key in expired:
                self._end(key)
        return expired

    def __len__(self) -> int:
        return len(self._conversations)

    def _held_pixels(self) -> int:
        pictures = [conversation.session.image for conversation in self._conversations.values()]
        return sum(picture.width * picture.height for picture in pictures)

    def _end(self, key: str) -> None:
        del self._conversations[key]
        self._ended[key] = None
        while len(self._ended) > 100 * self.limit:
            self._ended.popitem(last=False)
