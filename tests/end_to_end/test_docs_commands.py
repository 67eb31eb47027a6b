"""Every command of the README and the docs is parsed by its own program: an unknown option or a missing file fails.

`test_docs.py` executes those that `docs_table.py` does not list.
"""

import argparse
import importlib
import inspect
import re
import shutil
import sys
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser
from docs_blocks import Call, blocks_of, calls_of
from docs_table import EXECUTED, NOT_RUN, reason_not_run
from torch.distributed.run import get_args_parser

from gemma_lisa.training import arguments as training_arguments

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]
# Options of a launcher or of another program, that prose may name
FOREIGN_OPTIONS = {"num_machines", "machine_rank", "main_process_ip", "main_process_port", "num_processes", "cpu"}
FOREIGN_OPTIONS |= {"nproc_per_node", "standalone", "debug", "help", "config_file", "push", "help_all", "config"}


class Parsed(Exception):
    """A program has parsed its arguments; what follows would need files."""


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """A function that lists the calls of a page: (where, call)."""
    folder = tmp_path / "folder"
    (folder / "docs").mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "scene.png", folder / "docs")
    monkeypatch.chdir(ROOT)

    def calls_of_page(page: str) -> list[tuple[str, Call]]:
        blocks = blocks_of(page, text_of(page), ("bash",))
        return [(block.where, call) for block in blocks for call in calls_of(block.code, folder, tmp_path)]

    return calls_of_page


@pytest.fixture
def stop_after_parsing(monkeypatch):
    """argparse raises Parsed after it has accepted a whole command line."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(self, args=None, namespace=None):
        original(self, args, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)


def parse_training(words: list[str]) -> None:
    """Parse the arguments of train.py: unknown options and missing recipes raise UsageError."""
    training_arguments.given_options(words)
    for name in ("--deepspeed", "--config"):
        if name in words:
            assert Path(words[words.index(name) + 1]).is_file(), words


def parse_program(path: str, words: list[str], monkeypatch) -> None:
    """Parse the arguments of a program by its own main function."""
    module = importlib.import_module("gemma_lisa." + path.removesuffix(".py").replace("/", "."))
    if path in ("scripts/plan_memory.py", "scripts/plan_scaling.py"):
        names = [word for word in words if word.startswith("--")]
        assert all(f'"{name}"' in inspect.getsource(module) for name in names), names
        assert Path(words[words.index("--config") + 1]).is_file(), words
        return
    monkeypatch.setattr(sys, "argv", [path, *words])
    with pytest.raises(Parsed):
        module.main(words) if inspect.signature(module.main).parameters else module.main()


def parse_python(words: list[str], monkeypatch) -> None:
    """Parse `python FILE ...` or `python -m MODULE ...`."""
    if words[:2] == ["-m", "torch.distributed.run"]:
        parse_launched(*get_args_parser().parse_known_args(words[2:]))
    elif words[0] == "-m":
        module = words[1].removeprefix("gemma_lisa.").replace(".", "/")
        path = module if (ROOT / f"{module}.py").is_file() else f"{module}/__main__"
        parse_program(f"{path}.py", words[2:], monkeypatch)
    elif words[0] == "train.py":
        parse_training(words[1:])
    elif words[0].startswith("tests/"):
        assert all((ROOT / word).exists() for word in words), words
    else:
        parse_program(words[0], words[1:], monkeypatch)


def parse_launched(parsed: argparse.Namespace, unknown: list[str]) -> None:
    """Check the script and the options that follow a launcher's own."""
    assert not unknown, unknown
    assert parsed.training_script == "train.py", parsed.training_script
    config = getattr(parsed, "config_file", None)
    assert config is None or (ROOT / config).is_file(), config
    parse_training(parsed.training_script_args)


def parse_make(words: list[str]) -> None:
    """Check that the targets are in the Makefile, and that the tests that ARGS names exist."""
    for word in words:
        name, _, value = word.partition("=")
        if value:
            assert re.search(rf"\$\({name}\)", text_of("Makefile")), word
            assert all((ROOT / path).exists() for path in re.findall(r"tests/\S+", value)), word
        else:
            assert re.search(rf"^{name}:", text_of("Makefile"), re.MULTILINE), word


def parse_call(call: Call, monkeypatch) -> None:
    """Parse a call by the program that it starts."""
    program, *words = call.words
    if program == "python":
        parse_python(words, monkeypatch)
    elif program == "torchrun":
        parse_launched(*get_args_parser().parse_known_args(words))
    elif program == "accelerate":
        assert words[0] == "launch"
        parse_launched(*launch_command_parser().parse_known_args(words[1:]))
    elif program == "make":
        parse_make(words)
    else:
        assert reason_not_run(call), call


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_parsed_by_its_program(page, calls, stop_after_parsing, monkeypatch):
    for where, call in calls(page):
        try:
            parse_call(call, monkeypatch)
        except Exception as error:
            raise AssertionError(f"{where}: {' '.join(call.words)}: {error}") from error


def test_every_command_is_executed_or_listed_with_a_reason(calls):
    used = set()
    for page in PAGES:
        for where, call in calls(page):
            reason = reason_not_run(call)
            assert reason or page in EXECUTED, f"{where}: {' '.join(call.words)}: add it to tests/docs_table.py"
            used |= {listed for listed in NOT_RUN if re.match(listed[0], " ".join(call.words))}
        if page not in EXECUTED:
            assert not blocks_of(page, text_of(page), ("python",)), page
    assert [pattern for pattern, reason in NOT_RUN if (pattern, reason) not in used] == []


@pytest.mark.parametrize(
    "command",
    [
        "python predict.py --image a.png --query q --outputs a.png",
        "python train.py --config configs/shapes.yaml --model m --output_dir o --learning_rat 1",
        "python train.py --config configs/no_such.yaml --model m --output_dir o",
        "torchrun --nproc_per_node 2 train.py --config configs/shapes.yaml --no_such 1",
        "accelerate launch --config_file configs/accelerate/no_such.yaml train.py --config configs/shapes.yaml",
        "python -m gemma_lisa.datasets_builder verify",
        "python scripts/plan_memory.py --config configs/shapes.yaml --device 1",
        "make no-such-target",
        "make test ARGS=tests/no_such.py",
        "wget x",
    ],
)
def test_a_wrong_command_fails(command, stop_after_parsing, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises((Exception, SystemExit)) as raised:
        parse_call(Call(command.split(), ""), monkeypatch)
    assert raised.type is not Parsed


@pytest.mark.parametrize("page", PAGES)
def test_yaml_blocks_are_recipes(page, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    for block in blocks_of(page, text_of(page), ("yaml",)):
        (tmp_path / "recipe.yaml").write_text(block.code)
        words = ["--config", str(tmp_path / "recipe.yaml"), "--model", "m", "--output_dir", str(tmp_path / "out")]
        training_arguments.given_options([*words, "--data_dir", "data"])


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_are_valid(page):
    for block in blocks_of(page, text_of(page), ("python",)):
        compile(block.code, block.where, "exec")


def test_every_option_in_the_text_is_an_option_of_a_program():
    programs = [*ROOT.glob("*.py"), *ROOT.glob("scripts/*.py"), *ROOT.glob("interfaces/*.py")]
    programs += [*ROOT.glob("datasets_builder/*.py"), *ROOT.glob("benchmarks/*.py")]
    known = {name for path in programs for name in re.findall(r'"--(\w+)"', path.read_text(encoding="utf-8"))}
    known |= set(training_arguments._defaults()) | FOREIGN_OPTIONS
    for page in PAGES:
        named = set(re.findall(r"(?<![\w-])--(\w+)", text_of(page)))
        assert named <= known, (page, named - known)


def test_blocks_are_found_with_their_line_and_without_indentation():
    text = "# A\n\n```python\nx = 1\n```\n1. words\n\n   ```bash\n   true\n     a\n   ```\n```json\n{}\n```\n"
    first, second = blocks_of("a.md", text)
    assert (first.where, first.language, first.code) == ("a.md:4", "python", "x = 1")
    assert (second.where, second.language, second.code) == ("a.md:9", "bash", "true\n  a")


def test_calls_are_listed_with_their_arguments_and_input(tmp_path):
    code = "A='x y'\nmkdir made\nprintf 'typed\\n' |\n    python a.py \"$A\" \\\n    --b # comment\nLARGE=1 make test"
    first, second = calls_of(code, tmp_path, tmp_path / "scratch")
    assert (first.words, first.typed) == (["python", "a.py", "x y", "--b"], "typed\n")
    assert (second.words, second.typed) == (["make", "test"], "")
    assert (tmp_path / "made").is_dir()
