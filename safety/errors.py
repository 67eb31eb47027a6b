"""Errors that the programs print on one line."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# Options of questions, which the programs check themselves
QUESTIONS = ("--query", "--examples")
# torch.save raises on a full disk: "[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"
TORCH_WRITER, FULL_DISK = "inline_container", "No space left on device"


class UsageError(ValueError):
    """An error in the command line or the recipe. The exit code is 2."""


class WriteError(OSError):
    """A file that cannot be written or read. The message is one line."""


def check_not_empty(arguments: Sequence[str]) -> None:
    """Check that no argument of a command line is empty, as from an unset shell variable.

    Raises:
        UsageError: an argument is empty. The message names its option.
    """
    for at, word in enumerate(arguments):
        option, is_one_word, value = word.partition("=")
        if is_one_word and option.startswith("--") and not value.strip():
            raise UsageError(f"{option} is empty. Give it a value or remove it.")
        if not word.strip():
            options = [before.partition("=")[0] for before in arguments[:at] if before.startswith("--")]
            if options and options[-1] in QUESTIONS:
                continue
            raise UsageError(f"{options[-1] if options else 'An argument'} is empty. Give it a value or remove it.")


@contextmanager
def one_line_errors(place: str | Path, does: str) -> Iterator[None]:
    """Turn errors of reading and writing, such as a full disk or a damaged file, into an error of one line.

    Args:
        place: the file or folder, or a description of it.
        does: what failed, for example "cannot be written".

    Raises:
        WriteError: "{place}: {does} ({reason})." Other errors are raised unchanged.
    """
    try:
        yield
    except WriteError:
        raise
    except (OSError, RuntimeError, *_safetensors_errors()) as error:
        if isinstance(error, RuntimeError) and TORCH_WRITER not in str(error):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = f"{FULL_DISK}?" if isinstance(error, RuntimeError) else lines[0]
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        raise WriteError(f"{place}: {does} ({reason}).") from error


def _safetensors_errors() -> tuple[type[Exception], ...]:
    """Return the class of errors of safetensors, which is not needed to score the predictions of other systems."""
    loaded = sys.modules.get("safetensors")
    return () if loaded is None else (loaded.SafetensorError,)
