"""Who talks about which picture: one conversation a visitor, in memory only, a limited number of them.

Knows the model and no web server; `page.py` shows what is kept here. Each answer is kept as text and packed masks; JSON
and PNG files are made when the visitor downloads them.
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

from gemma_lisa.drawing.overlay import draw_answer, draw_overlay
from gemma_lisa.images_gemma_lisa import load_rgb
from gemma_lisa.interfaces.answer_json import record
from gemma_lisa.processing_gemma_lisa import phrases_of
from gemma_lisa.session_gemma_lisa import ImageSession, PointedAt

from .masks import KeptMask
from .uploads import Uploads

MAX_CONVERSATIONS = 32  # a conversation holds its picture (3 bytes a pixel) and all that Gemma read of it
SILENCE = 30 * 60  # seconds after which a conversation ends
MAX_HELD_PIXELS = 400_000_000  # of the pictures of all conversations
MAX_QUESTION = 500  # characters
MAX_NEW_TOKENS = 128  # of an answer
MAX_TURNS = 32  # questions of a conversation
MAX_CORRECTIONS = 200  # clicks of a conversation
MAX_MASK_PIXELS = 500_000_000  # of an answer, all masks together: a byte each where they are drawn
TEXTS = ("text", "raw_text", "phrases", "complete")  # what is kept of an answer beside its masks


class Refused(ValueError):
    """What a visitor cannot have; `reason` is a key of translations.WORDS, `values` what its words name."""

    def __init__(self, reason: str, **values: Any):
        super().__init__(reason)
        self.reason, self.values = reason, values


@dataclass
class Turn:
    """A question with its answer.

    Args:
        question: as it was asked.
        answer: its TEXTS, as of the processor's `post_process_segmentation`.
        words: the answer, cut at each `[SEG]`: one piece more than there are masks.
        first: where its masks begin among those of the session.
        masks: of the answer, in its order.
    """

    question: str
    answer: dict[str, Any]
    words: list[str]
    first: int
    masks: list[KeptMask]

    @property
    def names(self) -> list[str]:
        """What each mask is called: its phrase, else the question."""
        return [phrase or self.question for phrase in phrases_of(self.words)]


@dataclass
class Conversation:
    """A visitor's picture and conversation.

    Args:
        name: of the picture's file.
        session: about the picture.
        turns: what was asked and answered, in order.
        corrections: what each click on a mask replaced, the last one last: turn, mask, the session's and the turn's.
        stopped: whether the answer that is being written is no longer wanted.
        used: when the visitor last did something, by `time.monotonic`.
    """

    name: str
    session: ImageSession
    turns: list[Turn] = field(default_factory=list)
    corrections: list[tuple[int, int, PointedAt, KeptMask]] = field(default_factory=list)
    stopped: bool = False
    used: float = field(default_factory=time.monotonic)

    def ask(self, question: str) -> Iterator[Turn]:
        """The turn so far after every token; it is kept once it is whole.

        Raises:
            Refused: an empty question, or one that is too long; a conversation that is; while it is written, that it
                was stopped, or has too many masks.
        """
        if len(question) > MAX_QUESTION:
            raise Refused("long_question", length=len(question), limit=MAX_QUESTION)
        if not question.strip():
            raise Refused("no_question")
        if len(self.turns) >= MAX_TURNS:
            raise Refused("long_conversation", limit=MAX_TURNS)
        self.stopped = False
        return self._answer(question)

    def correct(self, turn: int, mask: int, point: tuple[float, float, int]) -> None:
        """A click on the picture, (x, y, label) in pixels: 1 = part of the mask, 0 = not.

        Raises:
            ValueError: no such mask; not inside the picture; too many clicks.
        """
        asked = self.turn(turn)
        if len(self.corrections) >= MAX_CORRECTIONS:
            raise Refused("many_clicks", limit=MAX_CORRECTIONS)
        if not 0 <= mask < len(asked.masks):
            raise ValueError(f"There is no mask {mask + 1}; the answer has {len(asked.masks)}.")
        number = asked.first + mask
        pointed_at, kept = self.session.pointed_at[number], asked.masks[mask]
        found, score = self.session.correct(number, points=[point])
        asked.masks[mask] = KeptMask.pack(found.numpy(), mask, score, (*kept.points, point))
        self.corrections.append((turn, mask, pointed_at, kept))

    def undo(self) -> int:
        """Take the last click back; the turn it was on.

        Raises:
            Refused: no click is left.
        """
        if not self.corrections:
            raise Refused("nothing_to_undo")
        turn, mask, pointed_at, kept = self.corrections.pop()
        asked = self.turns[turn]
        self.session.pointed_at[asked.first + mask] = pointed_at
        asked.masks[mask] = kept
        return turn

    def forget(self) -> None:
        """Begin the conversation anew about the same picture."""
        self.session.forget()
        self.turns, self.corrections = [], []

    def masks_of(self, turn: Turn) -> np.ndarray:
        """(K, H, W) bool."""
        masks = np.empty((len(turn.masks), self.session.image.height, self.session.image.width), dtype=bool)
        for mask, kept in zip(masks, turn.masks, strict=True):
            mask[:] = kept.unpack()
        return masks

    def records(self) -> list[dict[str, Any]]:
        """All answers, as predict.py writes them to a JSON file."""
        return [self._record(turn) for turn in self.turns]

    def picture(self, turn: int, hidden: set[int], hidden_word: str) -> Image.Image:
        """The answer's masks on the picture with a legend; those of `hidden`, from 0, are named and not drawn."""
        asked = self.turn(turn)
        masks = self.masks_of(asked)
        if not len(masks):
            return draw_answer(self.session.image, masks, asked.question, asked.answer["text"])
        labels = []
        for index, (name, kept) in enumerate(zip(asked.names, asked.masks, strict=True)):
            if index in hidden:
                masks[index] = False
            labels.append(f"{name} {kept.score:.2f}" if index not in hidden else f"{name} {hidden_word}")
        return draw_overlay(self.session.image, masks, labels)

    def turn(self, turn: int) -> Turn:
        """The answer of that number, from 0.

        Raises:
            Refused: there is none.
        """
        if not 0 <= turn < len(self.turns):
            raise Refused("no_answer")
        return self.turns[turn]

    def _answer(self, question: str) -> Iterator[Turn]:
        first, said = len(self.session.pointed_at), len(self.session.messages)
        masks: list[KeptMask] = []
        for answer in self.session.stream(question, max_new_tokens=MAX_NEW_TOKENS):
            found, scores = answer["masks"], answer["scores"].tolist()
            if len(found) * self.session.image.width * self.session.image.height > MAX_MASK_PIXELS:
                raise Refused("many_masks", count=len(found))
            new = range(len(masks), len(found))  # a mask is packed once
            masks = [*masks, *(KeptMask.pack(found[index].numpy(), index, scores[index]) for index in new)]
            words = answer["raw_text"].split(self.session.processor.seg_token)
            turn = Turn(question, {name: answer[name] for name in TEXTS}, words, first, masks)
            yield turn
            if self.stopped and len(self.session.messages) == said:  # and not whole already
                raise Refused("stopped")
        self.turns.append(turn)

    def _record(self, turn: Turn) -> dict[str, Any]:
        scores = torch.tensor([kept.score for kept in turn.masks])
        found = {"masks": torch.from_numpy(self.masks_of(turn)), "scores": scores}
        return record(self.name, turn.question, turn.answer | found)


class Conversations:
    """All conversations, by the key of the visitor's session; the one that was silent longest makes room for a new one.

    Args:
        model, processor: a Gemma-LISA.
        limit: of conversations at once.
    """

    def __init__(self, model, processor, limit: int = MAX_CONVERSATIONS):
        self.model, self.processor, self.limit = model, processor, limit
        self.uploads = Uploads()  # pictures that wait to be talked about
        self._conversations: OrderedDict[str, Conversation] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()  # who is told that it has ended, and not that it never was
        self._lock = threading.Lock()

    def open(self, key: str, picture: Image.Image | str | bytes, name: str) -> Conversation:
        """Begin to talk about a picture, in place of the one before.

        Raises:
            ValueError: as `load_rgb`.
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
        """The conversation of that key.

        Raises:
            Refused: it has no picture yet, or has ended.
        """
        with self._lock:
            if key not in self._conversations:
                raise Refused("expired" if key in self._ended else "no_picture")
            self._conversations.move_to_end(key)
            conversation = self._conversations[key]
            conversation.used = time.monotonic()
            return conversation

    def leave(self, key: str) -> None:
        """The visitor wants another picture."""
        with self._lock:
            self._conversations.pop(key, None)

    def expire(self, silence: float = SILENCE) -> list[str]:
        """End the conversations that were silent for longer than `silence` seconds; their keys."""
        with self._lock:
            oldest = time.monotonic() - silence
            silent = [key for key, conversation in self._conversations.items() if conversation.used <= oldest]
            for key in silent:
                self._end(key)
        return silent

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
