"""The programs' edge: empty values and unwritable outputs are refused before work begins; errors hold no secret."""

import errno
import os
import sys

import pytest

from gemma_lisa import eval, predict
from gemma_lisa.datasets_builder import __main__ as datasets_builder
from gemma_lisa.interfaces import command_line
from gemma_lisa.safety.errors import UsageError, WriteError, check_not_empty, one_line_errors
from gemma_lisa.safety.whole_files import check_writable, write_whole
from gemma_lisa.scripts import export, init_checkpoint, init_tiny
from gemma_lisa.training.arguments import parse

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


def test_values_that_are_there_pass():
    check_not_empty(["--model", "a", "--flag", "--x=1", "--query", ""])  # predict.py says itself what a query must be


# ---------------------------------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "is_folder"), [("new/deep/a.png", False), ("a.png", False), ("new/folder", True)])
def test_what_can_be_written_passes_and_nothing_is_left(tmp_path, name, is_folder):
    check_writable(tmp_path / name, "--output", is_folder)
    assert not list(tmp_path.iterdir())


def test_an_existing_file_or_folder_of_the_right_kind_passes(tmp_path):
    (tmp_path / "a.png").write_text("kept")
    check_writable(tmp_path / "a.png", "--output")
    check_writable(tmp_path, "--output", is_folder=True)
    assert (tmp_path / "a.png").read_text() == "kept" and len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_written_is_told_with_option_and_path(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("/nowhere/x")
    for path, is_folder, said in (
        (tmp_path, False, "this is a folder; expected the name of a file"),
        (tmp_path / "file", True, "this is a file; expected the name of a folder"),
        (tmp_path / "file" / "a.png", False, f"{tmp_path / 'file'} is a file; expected a folder"),
        (tmp_path / "link" / "a.png", False, "is a link to nothing"),
    ):
        with pytest.raises(UsageError, match=f"^--output {path}: .*{said}"):
            check_writable(path, "--output", is_folder)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_read_only_folder_or_full_disk_is_told(tmp_path, monkeypatch, number):
    def refuse(**options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(command_line.tempfile, "NamedTemporaryFile", refuse)
    with pytest.raises(ValueError, match=rf"^--json {tmp_path}/a.json: cannot be written \({os.strerror(number)}\)"):
        check_writable(tmp_path / "a.json", "--json")


def test_a_file_that_cannot_be_written_is_named_and_the_old_one_stays(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("old")

    def fill_up(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(command_line.os, "replace", fill_up)
    with pytest.raises(WriteError, match=f"^{tmp_path}/a.json: cannot be written .No space left on device") as refusal:
        write_whole(tmp_path / "a.json", {"new": 1})
    assert "\n" not in str(refusal.value)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and (tmp_path / "a.json").read_text() == "old"


def test_errors_of_the_computation_are_no_errors_of_writing():
    with pytest.raises(RuntimeError, match="^shapes do not match$"), one_line_errors("a", "cannot be written"):
        raise RuntimeError("shapes do not match")


# ---------------------------------------------------------------------------------------------------------------------
# Errors
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("words", [["--hub_tokn", "hf_" + "a1" * 17], ["--hub_token=correct-horse"]])
def test_a_secret_is_in_no_error_and_not_in_what_trackers_see_of_the_command(monkeypatch, capsys, words):
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


def test_a_long_error_shows_no_half_of_a_secret(monkeypatch, capsys):
    secret = "correct-horse-battery"
    for text in (f"{'x' * n} {secret} {'token=' * 20_000}" for n in (1_985, 19_960, 19_990)):
        line = command_line.masked_line(text, {secret})
        assert len(line) <= 2_000 and "correct" not in line
    for count in range(20_000 // 22, 20_000 // 22 + 3):  # what is masked makes the end visible
        assert "correct" not in command_line.masked_line(" ".join([secret] * count), {secret})
    assert command_line.masked_line("short  and\nplain", {secret}) == "short and plain"


def test_an_error_of_reading_the_command_line_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "--dataset_options", "[" * 600 + "]" * 600])
    command_line.run(lambda arguments: None)

    def fail(arguments):
        raise RecursionError("too deep")

    monkeypatch.setattr(command_line, "secrets_of", fail)
    with pytest.raises(SystemExit):
        command_line.run(lambda arguments: None)
    assert capsys.readouterr().err == "error: too deep\n"
