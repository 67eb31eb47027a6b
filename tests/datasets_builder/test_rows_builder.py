"""Rows are written unchanged for any number of tables."""

import datasets
import pytest

from gemma_lisa.datasets_builder import rows_builder
from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.rows import ROW_FEATURES
from gemma_lisa.datasets_builder.rows_builder import RowsBuilder

RLE = {"size": [2, 3], "counts": "06"}

SIZES = {"train": 7, "test": 0, "validation": 250}


def row(number):
    """Return rows with and without an image and optional values."""
    target = {
        "texts": ["the cat", f"cat {number}"],
        "kind": None if number % 2 else "kind",
        "is_sentence": bool(number % 3),
        "masks": [RLE] * (number % 4),
        "answer": None,
        "ignore": RLE if number % 2 else None,
        "explanation": None,
    }
    return {
        "image": {"bytes": None, "path": f"{number}.jpg"} if number % 5 else None,
        "source": f"made/{number}",
        "targets": [target] * (number % 3),
        "conversation": [{"question": "what?", "answer": "that"}] * (number % 2),
    }


class Made(RowsBuilder):
    BUILDER_CONFIGS = [datasets.BuilderConfig(name="default")]

    def _split_generators(self, dl_manager):
        return [datasets.SplitGenerator(name, gen_kwargs={"count": n}) for name, n in SIZES.items()]

    def _generate_examples(self, count):
        for number in range(count):
            yield number, row(number)


class Broken(Made):
    def _generate_examples(self, count):
        yield 0, row(0)
        raise ValueError("row 1: is broken")


@pytest.mark.parametrize("size", [1, 3, 7, 1_000])
def test_rows_are_returned_unchanged(tmp_path, monkeypatch, size):
    monkeypatch.setattr(rows_builder, "ROWS_PER_TABLE", size)
    builder = Made(cache_dir=str(tmp_path))
    builder.download_and_prepare()
    rows = builder.as_dataset(split="train")
    assert rows.features == ROW_FEATURES
    assert list(rows) == [row(number) for number in range(7)]
    assert builder.info.splits["test"].num_examples == 0


def test_rows_are_stored_in_few_record_batches(tmp_path):
    builder = Made(cache_dir=str(tmp_path))
    builder.download_and_prepare()
    assert [len(batch) for batch in builder.as_dataset(split="validation").data.to_batches()] == [250]


def test_the_error_of_a_row_is_the_cause_of_the_raised_error(tmp_path):
    with pytest.raises(datasets.exceptions.DatasetGenerationError) as failure:
        Broken(cache_dir=str(tmp_path)).download_and_prepare()
    assert str(failure.value.__cause__) == "row 1: is broken"


@pytest.mark.parametrize("pattern", ["*-validation.arrow", "dataset_info.json"])
@pytest.mark.parametrize("damage", ["cut", "zeros", "empty"])
def test_damaged_cached_rows_are_named_with_advice(own_cache, tmp_path, pattern, damage):
    options = {"train_rows": 2, "validation_rows": 2, "test_rows": 2}
    load_rows("shapes", "validation", options=options)
    [path] = (tmp_path / "cache").rglob(pattern)
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "zeros": b"\0" * len(content), "empty": b""}[damage])
    with pytest.raises(ValueError, match=f"^{tmp_path / 'cache'}.*shapes.*damaged .*delete this folder") as refusal:
        load_rows("shapes", "validation", options=options)
    assert "\n" not in str(refusal.value)
