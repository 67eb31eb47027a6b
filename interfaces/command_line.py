"""What the programs share: the argument parser, types of arguments, and errors as one line with an exit code."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Collection
from typing import Any, NoReturn

from tqdm import tqdm

from gemma_lisa.safety.errors import UsageError, check_not_empty
from gemma_lisa.safety.interrupts import Terminated, sigterm_raises
from gemma_lisa.safety.parsing import parse_json
from gemma_lisa.safety.redaction import mask_text, redact_arguments
from gemma_lisa.safety.secret_names import secrets_of
from gemma_lisa.safety.short_text import VALUE_LENGTH, shorten

USAGE, FAILURE = 2, 1
SIGNALLED = 128  # a shell's exit code of a process that a signal ended, less the signal's number
# Characters of an error message that are looked at, and of its end that can be the first half of a secret
MASKED_LENGTH, LONGEST_SECRET = 20_000, 4_096


class ArgumentParser(argparse.ArgumentParser):
    """argparse with errors of one line, which refuses empty values: no option of the programs takes one."""

    def parse_known_args(self, args=None, namespace=None):
        check_not_empty(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; --help lists what there is.")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The options of programs that open a checkpoint beside --model: adapter, precision, device."""
    parser.add_argument("--adapter", help="folder of an adapter whose base --model names, where that has moved")
    parser.add_argument("--load_in_4bit", action="store_true", help="quantise the language model to nf4")
    parser.add_argument("--load_in_8bit", action="store_true", help="quantise the language model to int8")
    parser.add_argument("--device", help="cuda, cpu, ..., auto for several GPUs; by default a GPU if there is one")


def is_count(text: str) -> bool:
    """Whether a text is a whole number without a sign that fits into 64 bits."""
    return text.isdecimal() and len(text) <= 18


def positive(text: str) -> int:
    """An argument that counts something."""
    if not is_count(text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{shorten(text, VALUE_LENGTH)} is not a number from 1 on")
    return int(text)


def not_negative(text: str) -> int:
    """An argument that counts something, or nothing."""
    if not is_count(text):
        raise argparse.ArgumentTypeError(f"{shorten(text, VALUE_LENGTH)} is not a number from 0 on")
    return int(text)


def json_object(text: str) -> dict[str, Any]:
    """An argument that gives names and values, as JSON."""
    try:
        value = parse_json(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{shorten(text, VALUE_LENGTH)} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(
            f'{shorten(text, VALUE_LENGTH)}: names and values are needed, as in {{"image_size": 128}}'
        )
    return value


def run(main: Callable[[list[str]], None]) -> None:
    """Call `main` with the arguments; errors become one line and an exit code, or a traceback with `--debug`.

    `sys.argv`, which experiment trackers record, is left without secrets and absolute paths.
    """
    arguments, secrets = sys.argv[1:], set()
    debug = False
    if "--debug" in arguments:
        at = arguments.index("--debug")
        if debug := arguments[at + 1 : at + 2] == [] or arguments[at + 1].startswith("--"):
            del arguments[at]  # with a value it is TrainingArguments' own
    try:
        secrets = secrets_of(sys.argv[1:])
        sys.argv[1:] = redact_arguments(sys.argv[1:], secrets)
        with sigterm_raises():
            main(arguments)
    except (KeyboardInterrupt, Terminated) as stopped:
        close_bars()
        terminated = isinstance(stopped, Terminated)
        print("terminated" if terminated else "interrupted", file=sys.stderr)
        sys.exit(SIGNALLED + (signal.SIGTERM if terminated else signal.SIGINT))
    except Exception as error:
        if debug:
            raise
        close_bars()
        line = masked_line(str(error) or type(error).__name__, secrets)
        rank = os.environ.get("RANK")
        print(f"error: {line}" + (f" (rank {rank})" if rank else ""), file=sys.stderr)
        sys.exit(USAGE if isinstance(error, UsageError) else FAILURE)


def masked_line(text: str, secrets: Collection[str]) -> str:
    """Return a text as one line of bounded length, without secrets: not even with the half of one at its end."""
    line = " ".join(text[:MASKED_LENGTH].split())
    masked = mask_text(line, secrets)
    if len(text) > MASKED_LENGTH:
        masked = f"{masked[: -max(LONGEST_SECRET, *map(len, secrets), 0)]}…"
    return shorten(masked)


def close_bars() -> None:
    """End the lines of bars that are still drawn, or what is said next would stand behind them."""
    for bar in list(tqdm._instances):
        bar.close()
