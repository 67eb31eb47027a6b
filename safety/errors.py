"""Errors that the programs print as one line."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

# Options whose programs say themselves what a question must be
QUESTIONS = ("--query", "--examples")
# What torch.save raises on a full disk: "[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"
TORCH_WRITER, FULL_DISK = "inline_container", "No space left on device"


class UsageError(ValueError):
    """The command line or the recipe is wrong: exit code 2."""


class WriteError(OSError):
    """What could not be written or read, in one line."""


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
