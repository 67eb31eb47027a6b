"""What the programs share at their edge: errors of one line, whole files, and the device they run on."""

import argparse
import io
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from PIL import ExifTags, Image
from safetensors import SafetensorError
from tqdm import tqdm

from .interrupts import Terminated, sigterm_raises
from .parsing import parse_json
from .redaction import mask_text, redact_arguments, secrets_of
from .shown import VALUE_LENGTH, shorten

USAGE, FAILURE = 2, 1
SIGNALLED = 128  # a shell's exit code of a process that a signal ended, less the signal's number
SOFTWARE = "Gemma-LISA"  # in the EXIF of every picture that is written: `outputs.is_own` knows it again
# What `check_writable` writes: a full file system often still makes an empty file
PROBE_BYTES = 4096
# Options whose programs say themselves what a question must be
QUESTIONS = ("--query", "--examples")
# Characters of an error message that are looked at, and of its end that can be the first half of a secret
MASKED_LENGTH, LONGEST_SECRET = 20_000, 4_096
# What torch.save raises on a full disk: "[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"
TORCH_WRITER, FULL_DISK = "inline_container", "No space left on device"


class UsageError(ValueError):
    """The command line or the recipe is wrong: exit code 2."""


class WriteError(OSError):
    """What could not be written or read, in one line."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse with errors of one line, which refuses empty values: no option of the programs takes one."""

    def parse_known_args(self, args=None, namespace=None):
        check_not_empty(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; --help lists what there is.")


def check_not_empty(arguments: Sequence[str]) -> None:
    """Refuse an empty word of a command line, which an unset shell variable leaves.

    Raises:
        UsageError: which option it belongs to.
    """
    for at, word in enumerate(arguments):
        option, is_one_word, value = word.partition("=")
        if is_one_word and option.startswith("--") and not value.strip():
            raise UsageError(f"{option} is empty; give it a value or leave it out.")
        if not word.strip():
            options = [before.partition("=")[0] for before in arguments[:at] if before.startswith("--")]
            if options and options[-1] in QUESTIONS:
                continue
            raise UsageError(f"{options[-1] if options else 'An argument'} is empty; give it a value or leave it out.")


def check_writable(path: str | Path, option: str, is_folder: bool = False) -> None:
    """Check that a file or folder can be written, before work begins; nothing is left behind.

    Args:
        path: what will be written; folders that do not exist yet will be created.
        option: named in the error, as "--output".
        is_folder: `path` is a folder that will hold files.

    Raises:
        UsageError: a part of the path is a file, or the path is a folder where a file is expected or the reverse.
        ValueError: the folder is read-only or on a full disk.
    """
    path = Path(path)
    try:
        if path.is_dir() != is_folder and path.exists():
            kinds = ("a file", "a folder") if is_folder else ("a folder", "a file")
            raise UsageError(f"{option} {path}: this is {kinds[0]}; expected the name of {kinds[1]}.")
        folder = path if is_folder else path.parent
        while not folder.exists() and not folder.is_symlink():
            folder = folder.parent
        if not folder.is_dir():
            kind = "a link to nothing" if folder.is_symlink() and not folder.exists() else "a file"
            raise UsageError(f"{option} {path}: {folder} is {kind}; expected a folder.")
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as probe:
            probe.write(b"\0" * PROBE_BYTES)
            probe.flush()
            os.fsync(probe.fileno())
        if path.is_file() and not path.is_symlink() and not os.access(path, os.W_OK):
            raise UsageError(f"{option} {path}: the file is write-protected; name another file.")
    except OSError as error:
        raise ValueError(
            f"{option} {path}: cannot be written ({error.strerror or error}); name a folder with write permission and "
            "free space."
        ) from error


@contextmanager
def one_line_errors(place: str | Path, does: str) -> Iterator[None]:
    """Turn what writing or reading raises, on a full disk or of a damaged file, into one line that names the place.

    Args:
        place: the file or folder, or words for it.
        does: what did not work, as "cannot be written".

    Raises:
        WriteError: with the reason. Errors of the computation itself are raised as they are.
    """
    try:
        yield
    except WriteError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and TORCH_WRITER not in str(error):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = f"{FULL_DISK}?" if isinstance(error, RuntimeError) else lines[0]
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        raise WriteError(f"{place}: {does} ({reason}).") from error


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
    """Write a text, a picture (in the format of the path's suffix) or JSON so that no half of it is ever at `path`.

    Raises:
        WriteError: it cannot be written, as on a full disk.
    """
    if isinstance(content, Image.Image):
        buffer, exif = io.BytesIO(), Image.Exif()
        exif[ExifTags.Base.Software] = SOFTWARE
        content.save(buffer, format=Image.registered_extensions().get(path.suffix.lower(), "PNG"), exif=exif)
        data = buffer.getbuffer()
    else:
        text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        data = text.encode("utf-8")
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with one_line_errors(path, "cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.write_bytes(data)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
