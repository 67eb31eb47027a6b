"""The command line of the programs: wrong arguments, exit codes, --help, and errors without secrets."""

import argparse
import re
import signal
import sys

import pytest
import torch

from gemma_lisa import app, eval, predict
from gemma_lisa.datasets_builder import __main__ as datasets_builder
from gemma_lisa.interfaces import command_line
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.interrupts import Terminated
from gemma_lisa.scripts import export, init_checkpoint, init_tiny
from gemma_lisa.training.arguments import parse

# Options that must be given, or whose absence is the default
WITHOUT_DEFAULT = ("--debug", "--image", "--query", "--table", "--output", "--masks", "--json", "--adapter", "--model")
WITHOUT_DEFAULT += (
    "--predictions",
    "--write_questions",
    "--retained_dir",
    "--retained_options",
    "--dataset",
    "--data_dir",
    "--dataset_options",
    "--dataset_out",
)
TRAIN = ["--model", "outputs/start", "--output_dir", "outputs/run", "--use_cpu", "true"]


@pytest.mark.parametrize(
    ("program", "arguments", "option"),
    [
        (predict.parse, ["--model", "", "--image", "a.png", "--query", "q", "--output", "o.png"], "--model"),
        (predict.parse, ["--image", "a.png", " ", "--query", "q", "--output", "o.png"], "--image"),
        (predict.parse, ["--image", "a.png", "--query", "q", "--output", "o.png", "--adapter", ""], "--adapter"),
        (predict.parse, ["--image", "a.png", "--query", "q", "--output="], "--output"),
        (predict.parse, ["--table", "", "--output", "o"], "--table"),
        (eval.parse, ["--model", "", "--dataset", "shapes", "--output", "r.json"], "--model"),
        (eval.parse, ["--model", "m", "--dataset", "shapes", "--output", "r.json", "--data_dir", ""], "--data_dir"),
        (export.parse, ["--model", "", "--output", "o"], "--model"),
        (export.parse, ["--model", "m", "--output", "o", "--config_from="], "--config_from"),
        (init_tiny.main, ["--output", ""], "--output"),
        (init_checkpoint.main, ["--gemma", "", "--sam", "s", "--output", "o"], "--gemma"),
        (datasets_builder.parse, ["prepare", "shapes", "--output", ""], "--output"),
        (datasets_builder.parse, ["inspect", "shapes", "--output", "o.png", "--data_dir", ""], "--data_dir"),
        (parse, [*TRAIN, "--data_dir", ""], "--data_dir"),
        (parse, [*TRAIN, "--adapter="], "--adapter"),
    ],
)
def test_an_empty_value_is_refused_with_its_option(program, arguments, option):
    with pytest.raises(UsageError, match=f"^{option} is empty"):
        program(arguments)


@pytest.mark.parametrize("field", ["model", "output_dir", "data_dir", "translations", "resume_from_checkpoint"])
def test_an_empty_value_of_a_recipe_is_refused(tmp_path, field):
    recipe = tmp_path / "recipe.yaml"
    given = {"model": "outputs/start", "output_dir": "outputs/run", "use_cpu": "true", field: '" "'}
    recipe.write_text("".join(f"{name}: {value}\n" for name, value in given.items()))
    with pytest.raises(UsageError, match=f"^{field} is empty"):
        parse(["--config", str(recipe)])


# ---------------------------------------------------------------------------------------------------------------------
# Types of arguments
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["0", "-1", "1.5", "", "²", "9" * 19, "x" * 200])
def test_a_value_that_is_not_a_positive_number_is_refused_in_a_short_message(text):
    with pytest.raises(argparse.ArgumentTypeError, match="^must be a whole number of at least 1, got ") as refusal:
        command_line.positive(text)
    assert len(str(refusal.value)) < 150
    assert command_line.positive("12") == command_line.not_negative("12") == 12 and command_line.not_negative("0") == 0


@pytest.mark.parametrize(("text", "message"), [("{", "is not valid JSON"), ("[1]", "must be a JSON object such as")])
def test_a_json_option_must_be_a_json_object(text, message):
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        command_line.json_object(text)
    assert command_line.json_object('{"image_size": 128}') == {"image_size": 128}


def test_an_unknown_option_is_a_usage_error_of_one_line():
    parser = command_line.ArgumentParser()
    command_line.add_model_options(parser)
    found = parser.parse_args(["--device", "cpu", "--load_in_4bit"])
    assert found.device == "cpu" and found.load_in_4bit and not found.load_in_8bit and found.adapter is None
    with pytest.raises(UsageError, match="unrecognized arguments: --nope; see --help for the options"):
        parser.parse_args(["--nope"])


def test_what_was_typed_is_shortened_in_errors():
    with pytest.raises(UsageError, match="^unrecognized arguments: x+…; see --help") as refused:
        command_line.ArgumentParser().parse_args(["x" * 5_000])
    assert len(str(refused.value)) < 300


def test_a_model_or_predictions_are_required_where_there_is_no_default():
    with pytest.raises(UsageError, match="give --model, --predictions or --write_questions"):
        eval.parse(["--dataset", "shapes", "--output", "results.json"])


@pytest.mark.parametrize("program", [predict, eval, app])
def test_cuda_is_refused_with_the_remedy_if_it_is_not_available(monkeypatch, program):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        UsageError, match="--device: CUDA is not available: .* Use --device cpu, or install a GPU driver"
    ):
        program.parse(["--device", "cuda"])


def test_devices_of_this_machine_are_accepted_and_others_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("auto", "cpu", "cuda", "cuda:1"):
        assert command_line.device(name) == name
    with pytest.raises(argparse.ArgumentTypeError, match="cuda:2 does not exist; PyTorch found cuda:0, cuda:1"):
        command_line.device("cuda:2")
    with pytest.raises(argparse.ArgumentTypeError, match="must be cpu, cuda, cuda:N or auto, got 'gpu'"):
        command_line.device("gpu")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("https://a.b/c.png", r"--x must be a file, got a URL \('https://a.b/c.png'\); download it and give its path"),
        ("data:image/png;base64,AA", "got a data URL .*; save the image as a file and give its path"),
        (
            "A" * 300,
            r"got a text of 300 characters \('AAAA.*…'\), which is too long for a file name; if it is image data",
        ),
        ("A/" * 3_000, "got a text of 6,000 characters"),
    ],
)
def test_a_url_or_image_data_is_refused_as_a_path_without_repeating_all_of_it(text, message):
    with pytest.raises(UsageError, match=message) as refused:
        command_line.check_path("--x", text, "a file")
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("path", [None, "a.png", "data/a.png", "C:/a.png", "ü" * 127, "a:b.png"])
def test_other_texts_are_accepted_as_paths(path):
    command_line.check_path("--x", path)


@pytest.mark.parametrize("program", [predict, eval, app])
def test_help_begins_with_an_introduction_and_examples_and_gives_every_default(capsys, program):
    with pytest.raises(SystemExit):
        program.parse(["--help"])
    text = capsys.readouterr().out
    introduction, examples, *groups = text.split("\n\n")[1:]
    assert len(introduction.splitlines()) == 2
    assert all(
        line.startswith(f"    python {program.__name__.rpartition('.')[2]}.py") for line in examples.splitlines()
    )
    assert [group.partition(":")[0] for group in groups].count("model") == 1
    for option in re.split(r"\n  (?=--)", text)[1:]:
        if "default" not in option:
            assert option.split()[0] in WITHOUT_DEFAULT, option


# ---------------------------------------------------------------------------------------------------------------------
# Exit codes
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("no such\nthing"), 1, "error: no such thing\n"),
        (KeyError(), 1, "error: KeyError\n"),
        (UsageError("--x is wrong"), 2, "error: --x is wrong\n"),
        (KeyboardInterrupt(), 128 + signal.SIGINT, "interrupted\n"),
        (Terminated(), 128 + signal.SIGTERM, "terminated\n"),
    ],
)
def test_every_kind_of_failure_has_its_exit_code_and_one_line(monkeypatch, capsys, error, code, message):
    monkeypatch.setattr(sys, "argv", ["predict.py"])
    monkeypatch.delenv("RANK", raising=False)

    def main(arguments):
        raise error

    with pytest.raises(SystemExit) as ended:
        command_line.run(main)
    assert ended.value.code == code and capsys.readouterr().err == message


def test_an_error_of_a_distributed_run_names_the_rank(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(SystemExit):
        command_line.run(lambda arguments: int("x"))
    assert capsys.readouterr().err.endswith(" (rank 3)\n")


@pytest.mark.parametrize(
    ("words", "seen", "shows_traceback"),
    [
        (["--debug"], [], True),
        (["--debug", "--x", "1"], ["--x", "1"], True),
        (["--debug", "no"], ["--debug", "no"], False),
    ],
)
def test_debug_without_a_value_shows_the_traceback_and_with_a_value_is_passed_on(
    monkeypatch, words, seen, shows_traceback
):
    monkeypatch.setattr(sys, "argv", ["train.py", *words])

    def main(arguments):
        assert arguments == seen
        raise ValueError("wrong")

    with pytest.raises(ValueError if shows_traceback else SystemExit):
        command_line.run(main)


# ---------------------------------------------------------------------------------------------------------------------
# Errors
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("words", [["--hub_tokn", "hf_" + "a1" * 17], ["--hub_token=correct-horse"]])
def test_secrets_appear_neither_in_errors_nor_in_sys_argv(monkeypatch, capsys, words):
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    secret = words[-1].removeprefix("--hub_token=")

    def main(arguments):
        assert arguments == words  # the program itself gets it
        raise ValueError(f"unknown arguments: {arguments}")

    with pytest.raises(SystemExit):
        command_line.run(main)
    error = capsys.readouterr().err
    assert error.startswith("error: unknown arguments") and secret not in error
    assert secret not in " ".join(sys.argv)


def test_a_shortened_error_shows_no_part_of_a_secret(monkeypatch, capsys):
    secret = "correct-horse-battery"
    for text in (f"{'x' * n} {secret} {'token=' * 20_000}" for n in (1_985, 19_960, 19_990)):
        line = command_line.masked_line(text, {secret})
        assert len(line) <= 2_000 and "correct" not in line
    for count in range(20_000 // 22, 20_000 // 22 + 3):  # what is masked makes the end visible
        assert "correct" not in command_line.masked_line(" ".join([secret] * count), {secret})
    assert command_line.masked_line("short  and\nplain", {secret}) == "short and plain"


def test_an_error_while_reading_the_command_line_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "--dataset_options", "[" * 600 + "]" * 600])
    command_line.run(lambda arguments: None)

    def fail(arguments):
        raise RecursionError("too deep")

    monkeypatch.setattr(command_line, "secrets_of", fail)
    with pytest.raises(SystemExit):
        command_line.run(lambda arguments: None)
    assert capsys.readouterr().err == "error: too deep\n"
