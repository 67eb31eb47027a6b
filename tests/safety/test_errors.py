"""Errors of one line for wrong arguments and for files that cannot be written."""

import errno

import pytest
import torch
from safetensors import SafetensorError

from gemma_lisa.safety.errors import UsageError, WriteError, check_not_empty, one_line_errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", ""], "--model is empty"),
        (["--model= ", "--output", "o"], "--model is empty"),
        (["--image", "a.png", "\t"], "--image is empty"),
        (["", "--model", "a"], "An argument is empty"),
        (["--query", "", "--model", ""], "--model is empty"),
        (["--query="], "--query is empty"),
    ],
)
def test_an_empty_argument_is_an_error_that_names_its_option(arguments, said):
    with pytest.raises(UsageError, match=f"^{said}. Give it a value or remove it"):
        check_not_empty(arguments)


def test_non_empty_arguments_are_accepted():
    check_not_empty(["--model", "a", "--flag", "--x=1", "--query", ""])  # predict.py checks queries itself


def test_errors_of_computations_are_raised_unchanged():
    with pytest.raises(RuntimeError, match="^shapes do not match$"), one_line_errors("a", "cannot be written"):
        raise RuntimeError("shapes do not match")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a file"), "No space left on device"),
        (OSError("broken\nin two lines"), "broken"),
        (OSError(), "OSError"),
        (SafetensorError("header too large"), "header too large"),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
            "No space left on device?",
        ),
    ],
)
def test_errors_of_writing_become_one_line_with_place_and_reason(error, reason):
    with pytest.raises(WriteError) as raised, one_line_errors("outputs/run", "cannot be written"):
        raise error
    assert str(raised.value) == f"outputs/run: cannot be written ({reason})."
    assert raised.value.__cause__ is error


def test_a_nested_write_error_is_raised_unchanged():
    with pytest.raises(WriteError, match="^inner$"), one_line_errors("outer", "cannot be written"):
        raise WriteError("inner")


def test_a_full_disk_in_torch_save_is_an_error_of_one_line(tmp_path):
    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self):
            """Do nothing."""

    with (
        pytest.raises(WriteError, match="^x: cannot be written .No space left"),
        one_line_errors("x", "cannot be written"),
    ):
        torch.save(torch.zeros(9), Full())
