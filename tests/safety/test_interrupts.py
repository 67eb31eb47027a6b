import argparse
import os
import signal
import sys

import pytest

from gemma_lisa.interfaces import command_line
from gemma_lisa.safety.interrupts import Terminated, sigterm_raises


def test_sigterm_raises_once_and_the_previous_handler_is_restored():
    before = signal.getsignal(signal.SIGTERM)
    finished = []
    with pytest.raises(Terminated), sigterm_raises():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # ignored while the work is saved
            finished.append(1)
    assert finished and signal.getsignal(signal.SIGTERM) is before


def test_a_forked_process_ends_immediately():
    with sigterm_raises():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "inter")]
)
def test_a_terminated_program_prints_one_line(number, code, word, monkeypatch, capsys, interruptible):
    monkeypatch.setattr(sys, "argv", ["program.py"])
    saved = []

    def main(arguments):
        try:
            os.kill(os.getpid(), number)
        finally:
            saved.append(1)

    with pytest.raises(SystemExit) as ended:
        command_line.run(main)
    said = capsys.readouterr().err.splitlines()
    assert ended.value.code == code and saved and len(said) == 1 and said[0].startswith(word)


def test_a_long_error_is_printed_as_one_short_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["program.py"])

    def main(arguments):
        raise ValueError("a.json: " + "x\n" * 10**6)

    with pytest.raises(SystemExit):
        command_line.run(main)
    said = capsys.readouterr().err
    assert said.startswith("error: a.json: x x") and len(said) < 2100 and said.count("\n") == 1


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (command_line.positive, "9" * 5_000),
        (command_line.not_negative, "9" * 5_000),
        (command_line.positive, "x" * 10**6),
        (command_line.json_object, "[" * 100_000),
        (command_line.json_object, "9" * 5_000),
        (command_line.json_object, "[" + "1, " * 10**5 + "1]"),
    ],
)
def test_a_long_argument_gives_a_short_error(kind, text):
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        kind(text)
    assert len(str(refused.value)) < 500
