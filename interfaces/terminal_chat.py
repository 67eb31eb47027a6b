"""A conversation about one image in a terminal, its masks numbered through."""

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from gemma_lisa.drawing.overlay import draw_overlay
from gemma_lisa.safety.whole_files import write_whole
from gemma_lisa.session_gemma_lisa import ImageSession

from .answer_json import label_of, labels

HELP = """\
Ask in words. The picture with all masks of the conversation is written after every answer. Besides:
  /point N X Y [0]   mask N again, with this pixel on the thing (or, with 0, beside it)
  /box N L T R B     mask N again, inside the box left, top, right, bottom
  /new               forget what was said
  /help  /quit       (or Ctrl-D)"""


class Talk:
    """What is typed, answered.

    Args:
        session: of the image.
        output: where the picture with the masks is written.
        options: of `ImageSession.ask`.
    """

    def __init__(self, session: ImageSession, output: Path, options: dict):
        self.session, self.output, self.options = session, output, options
        self.masks: list[torch.Tensor] = []  # (H, W) each, of all answers
        self.labels: list[str] = []

    def answer(self, line: str) -> str | None:
        """What to print for a line that was typed; None to end.

        Raises:
            ValueError: a command that is none, or cannot be done.
        """
        command, *numbers = line.split()
        if command == "/quit":
            return None
        if command == "/help":
            return HELP
        if command == "/new":
            self.session.forget()
            self.masks, self.labels = [], []
            return "The conversation begins anew."
        if command in ("/point", "/box"):
            return self._correct(command, numbers)
        if command.startswith("/"):
            raise ValueError(f"{command} is no command; /help lists them.")
        return self._ask(line)

    def _ask(self, question: str) -> str:
        answer = self.session.ask(question, **self.options)
        said = answer["raw_text"]
        for mask, label in zip(answer["masks"], labels(question, answer), strict=True):
            self.masks.append(mask)
            self.labels.append(label)
            said = said.replace(self.session.processor.seg_token, f"[{len(self.masks)}]", 1)
        cut = "" if answer["complete"] else " … (cut off; raise --max_new_tokens)"
        if not len(answer["masks"]):
            return said + cut
        self._draw()
        return f"{said}{cut}\n  {self.output}: {len(self.masks)} masks"

    def _correct(self, command: str, words: list[str]) -> str:
        try:
            number, *places = (int(word) for word in words)
        except ValueError as error:
            raise ValueError(f"{command} takes whole numbers; /help shows how.") from error
        if len(places) != 4 if command == "/box" else len(places) not in (2, 3):
            raise ValueError(f"{command} takes other numbers; /help shows how.")
        if command == "/box":
            prompt = {"box": tuple(places)}
        else:
            x, y, *label = places
            prompt = {"points": [(x, y, *(label or [1]))]}
        if not 1 <= number <= len(self.masks):
            raise ValueError(f"There is no mask {number}; there are {len(self.masks)}.")
        mask, score = self.session.correct(number - 1, **prompt, threshold=self.options.get("threshold", 0.0))
        self.masks[number - 1] = mask
        self.labels[number - 1] = label_of(self.labels[number - 1].rsplit(" (", 1)[0], score)
        self._draw()
        return f"  {self.output}: mask {number} has {int(mask.sum())} pixels now"

    def _draw(self) -> None:
        write_whole(self.output, draw_overlay(self.session.image, torch.stack(self.masks).numpy(), self.labels))


def converse(talk: Talk, read: Callable[[str], str] = input) -> None:
    """Read lines and print answers, until the end of the input; what cannot be done is said, and the talk goes on."""
    print(HELP)
    while True:
        try:
            line = read("> ").strip()
        except EOFError:
            print()
            return
        if not line:
            continue
        try:
            said = talk.answer(line)
        except ValueError as error:
            print(error, file=sys.stderr)
            continue
        if said is None:
            return
        print(said)
