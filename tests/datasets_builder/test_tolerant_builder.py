"""Bad records are skipped up to max_bad and listed at every start."""

import logging
from dataclasses import dataclass

import datasets
import pytest

from gemma_lisa.datasets_builder.tolerant_builder import NO_LIMIT, SKIP_ADVICE, TolerantBuilder, TolerantConfig

HALF = "\ud83d"  # a lone surrogate, which JSON can contain


def row(source, **fields):
    made = {"image": None, "source": source, "targets": [], "conversation": [{"question": "what?", "answer": "that"}]}
    return {**made, **fields}


def target(**fields):
    made = {"texts": ["the cat"], "kind": None, "is_sentence": False, "masks": [], "answer": None, "ignore": None}
    return {**made, "explanation": None, **fields}


def too_long(record):
    open("x" * 300).close()


@dataclass
class MadeConfig(TolerantConfig):
    @property
    def root(self):
        return self.data_dir

    def state_of_files(self):
        return []


class Made(TolerantBuilder):
    """A builder whose records are rows, None, or functions that raise."""

    BUILDER_CONFIG_CLASS = MadeConfig
    BUILDER_CONFIGS = [MadeConfig(name="default")]
    RECORDS = ()

    def _split_generators(self, dl_manager):
        return [datasets.SplitGenerator(name, gen_kwargs={"split": name}) for name in ("train", "test")]

    def _generate_examples(self, split):
        named = [(f"{split}.json: record {at}", record) for at, record in enumerate(self.RECORDS)]
        yield from self.rows(named, lambda record: record(record) if callable(record) else record)


def made(tmp_path, records, **options):
    """Return a builder after preparing its rows."""
    (tmp_path / "data").mkdir(exist_ok=True)
    builder = type("Made", (Made,), {"RECORDS": records})(
        data_dir=str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"), **options
    )
    builder.download_and_prepare()
    return builder


def refuse(record):
    raise ValueError("here: is broken.")


def test_warnings_about_skipped_files_are_logged_at_every_start(tmp_path, caplog):
    records = (row("a"), refuse, None)
    said = []
    for _ in range(3):
        caplog.clear()
        builder = made(tmp_path, records, max_bad=2)
        assert len(builder.as_dataset(split="train")) == 1
        said.append(caplog.messages)
    assert said[0] == said[1] == said[2]
    assert said[0][:2] == [
        "skipped: here: is broken.",
        f"{builder.title}: skipped records without a question (1), first: train.json: record 2",
    ]
    assert len(said[0]) == 4  # two splits


def test_max_bad_counts_all_splits_together(tmp_path):
    with pytest.raises(datasets.exceptions.DatasetGenerationError) as failure:
        made(tmp_path, (row("a"), refuse), max_bad=1)
    said = str(failure.value.__cause__)
    assert said == f"here: is broken. This is one more than max_bad 1 allows. {SKIP_ADVICE}"
    assert not list((tmp_path / "cache").rglob("*.arrow"))


def test_without_max_bad_the_first_bad_record_is_one_line_with_one_hint(tmp_path, caplog):
    with pytest.raises(datasets.exceptions.DatasetGenerationError) as failure:
        made(tmp_path, (row("a"), refuse))
    assert str(failure.value.__cause__) == f"here: is broken. {SKIP_ADVICE}"
    assert SKIP_ADVICE.count("--max_bad N") == 1 and "here" not in caplog.text


def test_without_a_limit_all_bad_records_are_collected_and_none_is_logged(tmp_path, caplog):
    builder = made(tmp_path, (row("a"), refuse), max_bad=NO_LIMIT)
    assert [str(error) for error in builder.bad] == ["here: is broken."] * 2 and "here" not in caplog.text


@pytest.mark.parametrize("max_bad", ["3", True, 2.5, -1])
def test_max_bad_must_be_an_integer(tmp_path, max_bad):
    with pytest.raises(ValueError, match="^max_bad must be an integer of at least 0, got "):
        made(tmp_path, (), max_bad=max_bad)


@pytest.mark.parametrize(
    "record",
    [
        row(f"a{HALF}"),
        row("a", image={"bytes": None, "path": f"/a{HALF}.jpg"}),
        row("a", targets=[target(texts=["the cat", f"cat {HALF}"])]),
        row("a", targets=[target(answer=HALF)]),
        row("a", targets=[target(explanation=HALF)]),
        row("a", conversation=[{"question": "what?", "answer": HALF}]),
        lambda record: HALF.encode(),
        too_long,
    ],
    ids=["source", "path", "text", "answer", "explanation", "conversation", "in the making", "a name too long"],
)
def test_a_record_that_cannot_be_written_is_bad(tmp_path, record):
    whole = row("😀 Zürich")
    builder = made(tmp_path, (whole, record), max_bad=2)
    assert list(builder.as_dataset(split="train")) == [whole]
    assert [str(error).partition(": ")[0] for error in builder.bad] == ["train.json", "test.json"]
    assert all("record 1: " in str(error) and "\n" not in str(error) for error in builder.bad)


def test_warnings_can_be_written_to_any_terminal(tmp_path, caplog):
    def nameless(record):
        raise ValueError(f"{HALF}.jpg: no such file in Zürich")

    builder = made(tmp_path, (row("a"), nameless), max_bad=2)
    assert "skipped: \\ud83d.jpg: no such file in Zürich" in caplog.messages
    assert str(builder.bad[0]) == "\\ud83d.jpg: no such file in Zürich"


def test_nothing_is_logged_if_nothing_was_skipped(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="gemma_lisa"):
        for _ in range(2):
            made(tmp_path, (row("a"),))
    assert not [record for record in caplog.records if record.name.startswith("gemma_lisa")]
