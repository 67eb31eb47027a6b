"""How a benchmark says what it measured: printed, and appended to a file of results."""

from pathlib import Path

ROOT = Path(__file__).parents[1]


def publish(lines: list[str], output: Path | None) -> None:
    """Print the lines, and append them to a Markdown file.

    Raises:
        ValueError: a file of another kind, which would be damaged.
    """
    text = "\n".join(lines) + "\n"
    print(text)
    if output and output.suffix != ".md":
        raise ValueError(f"{output}: the figures are appended to a Markdown file; give a name that ends in .md.")
    if output:
        with output.open("a", encoding="utf-8") as file:
            file.write(text)
