"""Find the images of evaluated questions again, through the data set that a results file names."""

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from gemma_lisa.safety.short_text import reason_of

from .records import Judged

ImageOf = Callable[[int], Image.Image | None]


def find_images(
    content: dict[str, Any], judged: Sequence[Judged], data_dir: str | None = None
) -> tuple[ImageOf | None, str | None]:
    """Return a function that returns the image of the question at an index, and None; or None and the reason.

    The function returns None for an image that cannot be read, or whose size is not that of the question.

    Args:
        content: of the results file: dataset, split, data_dir, dataset_options and rows.
        judged: its questions.
        data_dir: folder of the data set's files, instead of the one of the results file.
    """
    from gemma_lisa.datasets_builder.mixture import load_rows  # slow to import

    from .benchmark import list_questions

    folder = data_dir or content.get("data_dir")
    try:
        rows = load_rows(
            str(content.get("dataset")), content.get("split") or "test", folder, content.get("dataset_options")
        )
        if content.get("rows") is not None:
            rows = rows.select(range(min(int(content["rows"]), len(rows))))
        benchmark = list_questions(rows, str(content.get("dataset")), with_conversations=False)
    except (ValueError, OSError, TypeError) as error:
        return None, f"{reason_of(error)}."
    places = {name: at for at, name in enumerate(benchmark.ids)}

    def image_of(index: int) -> Image.Image | None:
        question = judged[index].question
        at = places.get(question.id)
        try:
            if at is None or benchmark.size(at) != question.size:
                return None
            return benchmark.image(at)
        except (ValueError, OSError):
            return None

    return image_of, None
