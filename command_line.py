"""What the programs share at their edge: errors of one line, whole files, and the device they run on."""

import argparse
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from PIL import ExifTags, Image
from tqdm import tqdm

from .interrupts import Terminated, sigterm_raises
from .parsing import parse_json
from .shown import VALUE_LENGTH, shorten

USAGE, FAILURE = 2, 1
SIGNALLED = 128  # a shell's exit code of a process that a signal ended, less the signal's number
SOFTWARE = "Gemma-LISA"  # in the EXIF of every picture that is written: `outputs.is_own` knows it again


class UsageError(ValueError):
    """The command line or the recipe is wrong: exit code 2."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse, whose complaint is one line and not the whole usage."""

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
    """Call `main` with the arguments; errors become one line and an exit code, or a traceback with `--debug`."""
    arguments = sys.argv[1:]
    debug = False
    if "--debug" in arguments:
        at = arguments.index("--debug")
        if debug := arguments[at + 1 : at + 2] == [] or arguments[at + 1].startswith("--"):
            del arguments[at]  # with a value it is TrainingArguments' own
    try:
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
        line = shorten(" ".join(str(error).split()) or type(error).__name__)
        rank = os.environ.get("RANK")
        print(f"error: {line}" + (f" (rank {rank})" if rank else ""), file=sys.stderr)
        sys.exit(USAGE if isinstance(error, UsageError) else FAILURE)


def close_bars() -> None:
    """End the lines of bars that are still drawn, or what is said next would stand behind them."""
    for bar in list(tqdm._instances):
        bar.close()


def choose_device(wanted: str | None) -> torch.device | str:
    """The device asked for, else a GPU if there is one; says which, and aloud when it is not a GPU.

    "auto" stays a word: `load_checkpoint` spreads the model over all devices.
    """
    if wanted == "auto":
        count = torch.cuda.device_count()
        print(f"device: auto, {f'over {count} GPUs' if count else 'on the CPU (no GPU was found)'}", file=sys.stderr)
        return wanted
    found = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted or found)
    note = " (no GPU was found)" if found == "cpu" else " (a GPU is there but not used)" if device.type == "cpu" else ""
    print(f"device: {device}{note}", file=sys.stderr)
    return device


def write_whole(path: Path, content: str | Image.Image | list | dict[str, Any]) -> None:
    """Write a text, a picture (in the format of the path's suffix) or JSON so that no half of it is ever at `path`."""
    if isinstance(content, Image.Image):
        buffer, exif = io.BytesIO(), Image.Exif()
        exif[ExifTags.Base.Software] = SOFTWARE
        content.save(buffer, format=Image.registered_extensions().get(path.suffix.lower(), "PNG"), exif=exif)
        data = buffer.getbuffer()
    else:
        text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        data = text.encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(data)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
