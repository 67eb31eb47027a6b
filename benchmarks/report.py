"""How a benchmark says what it measured: printed, and appended to a file of results."""

from pathlib import Path

ROOT = Path(__file__).parents[1]


def publish(lines: list[str], output: Path | None) -> None:
    text = "\n".join(lines) + "\n"
    print(text)
    if output:
        with output.open("a", encoding="utf-8") as file:
            file.write(text)
