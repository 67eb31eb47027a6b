"""A conversation about one image in the terminal. Masks are numbered through the whole conversation."""

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from gemma_lisa.drawing.overlay import draw_overlay, enlargement
from gemma_lisa.safety.short_text import VALUE_LENGTH, shorten
from gemma_lisa.safety.whole_files import write_whole
from gemma_lisa.session_gemma_lisa import ImageSession

from .answer_text import answer_text, label_of, labels, masks_text

POINT, BOX = "/point N X Y [0]", "/box N LEFT TOP RIGHT BOTTOM"  # how the commands are typed
HELP = """\
Type a question about the image, then Enter. {output} shows all masks of the conversation.
  {point:30} correct mask N: pixel (X, Y) belongs to it, or does not belong to it if 0 is added
  {box:30} correct mask N: it lies inside this box
  {new:30} start a new conversation about the same image
  {quit:30} this text; end (or Ctrl-D)
X, Y and boxes are pixels of the image as shown, {width} x {height}; (0, 0) is the top left corner."""
ENLARGED = "\n{output} shows the image enlarged {factor} times: divide pixels that you read there by {factor}."


class TerminalConversation:
    """Answers the lines that the user types.

    Args:
        session: session of the image.
        output: picture to write after each answer, with all masks.
        options: options of `ImageSession.ask`.
    """

    def __init__(self, session: ImageSession, output: Path, options: dict):
        self.session, self.output, self.options = session, output, options
        self.masks: list[torch.Tensor] = []  # (H, W) each, of all answers
        self.names: list[str] = []  # what each mask shows
        self.labels: list[str] = []

    @property
    def help(self) -> str:
        """The text of /help, with the size of the image that coordinates refer to."""
        width, height = self.session.image.size
        shown, factor = self.output.name, enlargement(self.session.image)
        commands = {"point": POINT, "box": BOX, "new": "/new", "quit": "/help, /quit"}
        text = HELP.format(output=shown, width=width, height=height, **commands)
        return text + (ENLARGED.format(output=shown, factor=factor) if factor > 1 else "")

    def answer(self, line: str) -> str | None:
        """Return the text to print for a line that was typed, or None to end the conversation.

        Raises:
            ValueError: an unknown command, or one with wrong numbers.
        """
        command, *numbers = line.split()
        if command == "/quit":
            return None
        if command == "/help":
            return self.help
        if command == "/new":
            self.session.reset()
            self.masks, self.names, self.labels = [], [], []
            return "New conversation about the same image."
        if command in ("/point", "/box"):
            return self._correct(command, numbers)
        if command.startswith("/"):
            raise ValueError(f"unknown command {shorten(command, VALUE_LENGTH)}; type /help for the commands.")
        return self._ask(line)

    def _ask(self, question: str) -> str:
        answer = self.session.ask(question, **self.options)
        first = len(self.masks) + 1
        text = answer_text(answer, first)
        if not len(answer["masks"]):
            return text
        self.masks += list(answer["masks"])
        self.names += [phrase or question for phrase in answer["phrases"]]
        self.labels += labels(question, answer)
        self._draw()
        return f"{text}\n  {masks_text(question, answer, first)}; wrote {self.output}"

    def _correct(self, command: str, words: list[str]) -> str:
        usage = POINT if command == "/point" else BOX
        try:
            number, *places = (int(word) for word in words)
        except ValueError as error:
            raise ValueError(f"{command} needs whole numbers: {usage}.") from error
        if len(places) not in ((4,) if command == "/box" else (2, 3)):
            raise ValueError(f"{command} got {len(words)} numbers, expected {usage}.")
        if command == "/box":
            prompt = {"box": tuple(places)}
        else:
            x, y, *label = places
            prompt = {"points": [(x, y, *(label or [1]))]}
        if not 1 <= number <= len(self.masks):
            raise ValueError(f"there is no mask {number}; number of masks so far: {len(self.masks)}.")
        mask, score = self.session.correct(number - 1, **prompt, threshold=self.options.get("threshold", 0.0))
        self.masks[number - 1], area = mask, int(mask.count_nonzero())
        self.labels[number - 1] = label_of(self.names[number - 1], score, area)
        self._draw()
        return f"  mask {number} now has {area:,} pixels: {self.labels[number - 1]}; wrote {self.output}"

    def _draw(self) -> None:
        write_whole(self.output, draw_overlay(self.session.image, torch.stack(self.masks).numpy(), self.labels))


def run_conversation(conversation: TerminalConversation, read: Callable[[str], str] = input) -> None:
    """Read lines and print answers until the input ends. An error is printed and does not end the conversation."""
    print(conversation.help)
    while True:
        try:
            line = read("> ").strip()
        except EOFError:
            print()
            return
        if not line:
            continue
        try:
            text = conversation.answer(line)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            continue
        if text is None:
            return
        print(text)
