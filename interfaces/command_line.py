"""Shared by the programs: argument parser, argument types, and errors as one line with an exit code."""

import argparse
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from gemma_lisa.safety.errors import UsageError, check_not_empty
from gemma_lisa.safety.interrupts import Terminated, sigterm_raises
from gemma_lisa.safety.parsing import parse_json
from gemma_lisa.safety.redaction import mask_text, redact_arguments
from gemma_lisa.safety.secret_names import secrets_of
from gemma_lisa.safety.short_text import shorten, show

USAGE, FAILURE = 2, 1  # exit codes
SIGNALLED = 128  # exit code of a process that a signal ended, minus the signal's number

# Characters of an error message that are searched for secrets, and the longest secret that its end can cut in two
MASKED_LENGTH, LONGEST_SECRET = 20_000, 4_096
PARSER_MESSAGE_LENGTH = 250  # characters of argparse's errors, which repeat what was typed
SHOWN_LENGTH = 60  # characters of a value that is not a path
LONGEST_NAME, LONGEST_PATH = 255, 4_095  # bytes of a file's or folder's name and of a whole path, on Linux
URL = re.compile(r"[a-z][a-z0-9+.-]+:/|data:", re.IGNORECASE)


class ArgumentParser(argparse.ArgumentParser):
    """argparse with errors of one line. Empty values are refused: no option of the programs accepts one."""

    def parse_known_args(self, args=None, namespace=None):
        check_not_empty(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{shorten(message, PARSER_MESSAGE_LENGTH)}; see --help for the options.")


def add_model_options(parser: argparse.ArgumentParser, has_example: bool = True) -> None:
    """Add the options that name a checkpoint and how it is loaded: --model, --adapter, precision, device.

    Args:
        parser: the program's parser.
        has_example: the small checkpoint in `examples/` is the default of --model. Otherwise it has no default.
    """
    model = parser.add_argument_group("model")
    default = " (default: the small checkpoint in examples/shapes-tiny)" if has_example else ""
    model.add_argument(
        "--model",
        help=f"folder or Hub name of a Gemma-LISA checkpoint, or folder of an adapter{default}",
    )
    model.add_argument(
        "--adapter",
        help="folder of an adapter; --model is then its base model. Only needed if the base model was moved",
    )
    model.add_argument(
        "--load_in_4bit", action="store_true", help="quantize the language model to 4 bits (nf4, default: off)"
    )
    model.add_argument(
        "--load_in_8bit", action="store_true", help="quantize the language model to 8 bits (int8, default: off)"
    )
    model.add_argument(
        "--device",
        type=device,
        help="cpu, cuda or cuda:N; auto: split over all GPUs (default: cuda if available, else cpu)",
    )
    # `run` removes --debug before `main` sees it; it is listed here for --help
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")


def is_count(text: str) -> bool:
    """Return whether a text is a whole number without a sign that fits into 64 bits."""
    return text.isdecimal() and len(text) <= 18


def positive(text: str) -> int:
    """Return the value of an argument that must be a whole number of at least 1."""
    if not is_count(text) or int(text) == 0:
        raise argparse.ArgumentTypeError(
            f"must be a whole number of at least 1, got {show(shorten(text, SHOWN_LENGTH))}"
        )
    return int(text)


def not_negative(text: str) -> int:
    """Return the value of an argument that must be a whole number of at least 0."""
    if not is_count(text):
        raise argparse.ArgumentTypeError(
            f"must be a whole number of at least 0, got {show(shorten(text, SHOWN_LENGTH))}"
        )
    return int(text)


def above_zero(text: str) -> float:
    """Return the value of an argument that must be a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {show(shorten(text, SHOWN_LENGTH))}")
    return value


def json_object(text: str) -> dict[str, Any]:
    """Return the value of an argument that must be a JSON object."""
    try:
        value = parse_json(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"is not valid JSON ({error}), got {show(shorten(text, SHOWN_LENGTH))}"
        ) from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(
            f'must be a JSON object such as {{"image_size": 128}}, got {show(shorten(text, SHOWN_LENGTH))}'
        )
    return value


def device(text: str) -> str:
    """Return the value of an argument that must be a device of this machine, or "auto"."""
    import torch  # slow to import, and only needed if --device is given

    if text == "auto":
        return text
    try:
        wanted = torch.device(text)
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(
            f"must be cpu, cuda, cuda:N or auto, got {show(shorten(text, SHOWN_LENGTH))}"
        ) from error
    if wanted.type != "cuda":
        return text
    if not torch.cuda.is_available():
        reason = "no GPU or driver was found" if torch.version.cuda else "this PyTorch was built without CUDA"
        raise argparse.ArgumentTypeError(
            f"CUDA is not available: {reason}. Use --device cpu, or install a GPU driver and PyTorch with CUDA "
            "(https://pytorch.org/get-started/locally)"
        )
    if wanted.index is not None and wanted.index >= (count := torch.cuda.device_count()):
        known = ", ".join(f"cuda:{index}" for index in range(count))
        raise argparse.ArgumentTypeError(f"{text} does not exist; PyTorch found {known}")
    return text


def check_path(option: str, path: Path | None, kind: str = "a file or a folder") -> None:
    """Refuse a URL, base64 data or a text that is too long for a path, without repeating all of it.

    Raises:
        UsageError: what was given, what is expected and what to do.
    """
    text = "" if path is None else re.sub(r"^(https?:/)(?!/)", r"\1/", str(path))  # Path drops a slash
    shown = show(shorten(text, SHOWN_LENGTH))
    if found := URL.match(text):
        is_data = found[0].lower() == "data:"
        what, advice = ("a data URL", "save the image as a file") if is_data else ("a URL", "download it")
        raise UsageError(f"{option} must be {kind}, got {what} ({shown}); {advice} and give its path.")
    if len(os.fsencode(text)) > LONGEST_PATH or any(len(os.fsencode(part)) > LONGEST_NAME for part in Path(text).parts):
        raise UsageError(
            f"{option} must be {kind}, got a text of {len(text):,} characters ({shown}), which is too long for a file "
            "name; if it is image data, save it as a file and give its path."
        )


def run(main: Callable[[list[str]], None]) -> None:
    """Call `main` with the arguments. An error becomes one line and an exit code, or a traceback with `--debug`.

    Secrets and absolute paths are removed from `sys.argv`, because experiment trackers record it.
    """
    arguments, secrets = sys.argv[1:], set()
    debug = False
    if "--debug" in arguments:
        at = arguments.index("--debug")
        if debug := arguments[at + 1 : at + 2] == [] or arguments[at + 1].startswith("--"):
            del arguments[at]  # with a value, it is the option of TrainingArguments
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
    """Return a text as one line of bounded length without secrets, also without a part of a secret at its end."""
    line = " ".join(text[:MASKED_LENGTH].split())
    masked = mask_text(line, secrets)
    if len(text) > MASKED_LENGTH:
        masked = f"{masked[: -max(LONGEST_SECRET, *map(len, secrets), 0)]}…"
    return shorten(masked)


def close_bars() -> None:
    """Close open progress bars, so that the next message starts on its own line."""
    for bar in list(tqdm._instances):
        bar.close()
