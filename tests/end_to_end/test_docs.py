"""The pages that say how to use and publish: every block of code is run, in order, in a working copy of its own.

A block that cannot be run is preceded by `<!-- not run: why -->`. Python blocks of a page share their names, as if they
were typed one after another; bash blocks run between them. A server that speaks the Hub's calls is the Hub.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import hub_server
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/use.md", "docs/publish.md")
LANGUAGES = ("python", "bash")
_FENCE = re.compile(r"(?P<before>[^\n]*)\n```(?P<language>\w+)\n(?P<code>.*?)\n```", re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: (?P<why>.+) -->")

# Runs a page's blocks: their names and codes come as a JSON list of [where, language, code]
RUNNER = """
import json, subprocess, sys

names = {"__name__": "__main__"}
for where, language, code in json.loads(sys.stdin.read()):
    print(f"running {where}", file=sys.stderr, flush=True)
    if language == "bash":
        subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True, stdin=subprocess.DEVNULL)
    else:
        exec(compile(code, where, "exec"), names)
"""


@dataclass
class Block:
    """A fenced block: page and line, language, code, and why it is not run, if it is not."""

    where: str
    language: str
    code: str
    why_not: str | None


def blocks_of(page: str, text: str) -> list[Block]:
    """The page's blocks of code in the languages that are run."""
    found = []
    for match in _FENCE.finditer("\n" + text):
        line = ("\n" + text)[: match.start("code")].count("\n")  # of its first line, from 1
        why = _NOT_RUN.fullmatch(match["before"].strip())
        if match["language"] in LANGUAGES:
            found.append(Block(f"{page}:{line}", match["language"], match["code"], why and why["why"]))
    return found


def read(page: str) -> list[Block]:
    return blocks_of(page, (ROOT / page).read_text(encoding="utf-8"))


@pytest.fixture
def copy(tmp_path):
    """The project's files, tracked or new, in a folder of the package's name."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so nothing says which files are the project's")
    listing = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        **{"cwd": ROOT, "check": True, "capture_output": True, "text": True},
    ).stdout
    folder = tmp_path / "gemma_lisa"
    for path in filter(None, listing.split("\0")):
        if (ROOT / path).is_file():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, folder / path, follow_symlinks=False)
    (tmp_path / "bin").mkdir()
    for name in ("python", "python3"):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    return folder


def test_blocks_are_found_with_their_place_and_what_is_said_before_them():
    text = "# A\n\n```python\nx = 1\n```\nwords\n<!-- not run: no account -->\n```bash\ntrue\n```\n```json\n{}\n```\n"
    first, second = blocks_of("a.md", text)
    assert (first.where, first.language, first.code, first.why_not) == ("a.md:4", "python", "x = 1", None)
    assert (second.where, second.code, second.why_not) == ("a.md:9", "true", "no account")


@pytest.mark.parametrize("page", PAGES)
def test_most_blocks_are_run_and_of_the_rest_it_is_said_why(page):
    blocks = read(page)
    not_run = [block for block in blocks if block.why_not]
    for block in not_run:
        print(f"{block.where} is not run: {block.why_not}")
    assert len(not_run) <= len(blocks) // 4, not_run
    for block in blocks:
        if block.language == "python":
            compile(block.code, block.where, "exec")
    comments = re.findall(r"<!-- not run.*", (ROOT / page).read_text(encoding="utf-8"))
    assert len(comments) == len(not_run)  # none stands where it has no block, or without a reason


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs(page, copy, tmp_path):
    blocks = [[block.where, block.language, block.code] for block in read(page) if not block.why_not]
    with hub_server.serve() as server:
        environment = {**os.environ, **hub_server.environment(server, tmp_path / "home")}
        environment |= {"PYTHONPATH": str(tmp_path), "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(
            [sys.executable, "-c", RUNNER],
            **{"cwd": copy, "env": environment, "input": json.dumps(blocks), "capture_output": True, "text": True},
        )
    assert done.returncode == 0, f"{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    assert done.stderr.count("running docs/") == len(blocks) > 0


NOTEBOOK = "docs/use.ipynb"


def test_the_notebook_is_one_and_says_nothing_of_an_earlier_run():
    notebook = json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4 and len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            compile("".join(cell["source"]), NOTEBOOK, "exec")


@pytest.mark.slow
def test_every_cell_of_the_notebook_runs(copy, tmp_path):
    cells = json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8"))["cells"]
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    # Where it is read, IPython is there; here what would be shown is counted
    (tmp_path / "IPython").mkdir()
    (tmp_path / "IPython" / "__init__.py").write_text("")
    (tmp_path / "IPython" / "display.py").write_text("def display(shown):\n    print('shown', shown.size)\n")
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        **{"cwd": copy, "env": {**os.environ, "PYTHONPATH": str(tmp_path)}, "capture_output": True, "text": True},
        input=json.dumps([[f"{NOTEBOOK}, cell {at}", "python", code] for at, code in enumerate(codes)]),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("shown") == 5


def commands_of(readme: str) -> list[str]:
    """What can be typed: lines of blocks without their comments, and the first cells of the table of commands."""
    blocks = [
        line.split("#")[0].strip()
        for block in re.findall(r"```\w+\n(.*?)```", readme, re.DOTALL)
        for line in block.splitlines()
    ]
    return [line for line in blocks if line] + re.findall(r"^\| (`(?:python|torchrun)[^|]*`) \|", readme, re.MULTILINE)


def test_the_readme_in_japanese_has_the_same_commands_pages_and_pictures():
    english, japanese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ja.md"))
    english = english.split("## What the small model reaches")[0]
    assert commands_of(japanese) == commands_of(english) != []
    for pattern in (r"\]\((docs/[^)]+|examples/[^)]+)\)", r"arXiv \d{4}\.\d{5}"):
        assert set(re.findall(pattern, english)) <= set(re.findall(pattern, japanese))
    for link in re.findall(r"\]\(([^)h][^)]*)\)", japanese):
        assert (ROOT / link).exists(), link
