"""Print the results of a benchmark and append them to a file."""

from pathlib import Path

ROOT = Path(__file__).parents[1]


def publish(lines: list[str], output: Path | None) -> None:
    """Print the lines and append them to a Markdown file, if one is given.

    Raises:
        ValueError: the file is not a Markdown file and could be damaged.
    """
    text = "\n".join(lines) + "\n"
    print(text)
    if output and output.suffix != ".md":
        raise ValueError(f"results can only be appended to a Markdown file (.md), got {output}.")
    if output:
        with output.open("a", encoding="utf-8") as file:
            file.write(text)
