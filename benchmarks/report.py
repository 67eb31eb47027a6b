"""How a benchmark says what it measured: printed, and appended to a file of results."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def commit() -> str:
    """The checkout's commit, or that there is none."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "no checkout"


def publish(lines: list[str], output: Path | None) -> None:
    text = "\n".join(lines) + "\n"
    print(text)
    if output:
        with output.open("a", encoding="utf-8") as file:
            file.write(text)
