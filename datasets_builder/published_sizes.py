"""Compare the size of a split with the published one, so that a score on a part of a benchmark is recognized."""

from .mixture import BUILDERS
from .published.archives import QUESTIONS, Archive


def published_size(name: str, split: str) -> tuple[int, str] | None:
    """Return the published size of a split and its unit, or None if it is not known.

    Args:
        name: of a data set, with a configuration after a slash if it has several: "refcoco/unc".
        split: such as "test".
    """
    set_name, _, config = name.partition("/")
    builder = BUILDERS.get(set_name)
    archive: Archive | None = getattr(builder, "ARCHIVE", None)
    if archive is None:
        return None
    sizes = builder.SIZES.get(config or builder.DEFAULT_CONFIG_NAME, {}) if builder.SIZES else archive.sizes
    return (sizes[split], archive.unit) if split in sizes else None


def compared_with_published(name: str, split: str, num_rows: int, num_questions: int) -> str | None:
    """Return one line that compares the size of a split with the published size, or None if it is not known.

    Args:
        name, split: as in `published_size`.
        num_rows, num_questions: of the split.
    """
    published = published_size(name, split)
    if published is None:
        return None
    size, unit = published
    found = num_questions if unit == QUESTIONS else num_rows
    if found == size:
        return f"{name} {split}: {size:,} {unit}, as published"
    return f"{name} {split}: {found:,} {unit}, but {size:,} are published; scores are not comparable with papers"
