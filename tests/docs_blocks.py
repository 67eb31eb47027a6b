"""Code blocks of the docs: find them, and list the program calls that their shell commands make."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

LANGUAGES = ("python", "bash")
# Programs that are not started by bash: a stub writes down the call, and the test decides what to do with it
STUBBED = ("python", "python3", "torchrun", "accelerate", "make", "pip", "curl")
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w+)\n(?P<code>.*?)\n *```", re.DOTALL | re.MULTILINE)
_STUB = """#!/bin/sh
number=$(ls "$CALLS" | wc -l)
printf '%s\\0' "${0##*/}" "$@" > "$CALLS/$number"
if [ -p /dev/stdin ]; then cat > "$TYPED/$number"; fi
"""


@dataclass
class Block:
    """A fenced block: page and line of its first line of code, language, code."""

    where: str
    language: str
    code: str


@dataclass
class Call:
    """A program that a block starts: its name and arguments, and what is piped into it."""

    words: list[str]
    typed: str


def blocks_of(page: str, text: str, languages: tuple[str, ...] = LANGUAGES) -> list[Block]:
    """Return the page's fenced blocks in these languages, without their indentation."""
    found = []
    for match in _FENCE.finditer(text):
        if match["language"] in languages:
            line = text[: match.start("code")].count("\n") + 1
            code = "\n".join(part.removeprefix(match["indent"]) for part in match["code"].split("\n"))
            found.append(Block(f"{page}:{line}", match["language"], code))
    return found


def calls_of(code: str, folder: Path, scratch: Path) -> list[Call]:
    """Run a bash block in `folder`, and return its calls of STUBBED programs in order. Other commands are executed.

    Raises:
        subprocess.CalledProcessError: a command failed, or is neither a common shell command nor stubbed.
    """
    stubs, calls, typed = (scratch / name for name in ("stubs", "calls", "typed"))
    for path in (stubs, calls, typed):
        path.mkdir(parents=True, exist_ok=True)
    for name in STUBBED:
        (stubs / name).write_text(_STUB)
        (stubs / name).chmod(0o755)
    for path in (*calls.iterdir(), *typed.iterdir()):
        path.unlink()
    environment = {"PATH": f"{stubs}{os.pathsep}/usr/bin{os.pathsep}/bin", "CALLS": str(calls), "TYPED": str(typed)}
    environment |= {"ENDPOINT": "https://example.com", "HF_TOKEN": "a-token"}
    command = f"source() {{ :; }}\n{code}"
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        **{"cwd": folder, "env": environment, "check": True, "stdin": subprocess.DEVNULL},
    )
    found = []
    for number in range(len(list(calls.iterdir()))):
        words = (calls / str(number)).read_bytes().decode().split("\0")[:-1]
        text = (typed / str(number)).read_text() if (typed / str(number)).is_file() else ""
        found.append(Call(words, text))
    return found
