"""Streams: one reader per row, no row repeated before all were read, and the same samples after a resume."""

import tracemalloc
from collections import Counter
from itertools import islice
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow
import pytest
from datasets import Dataset, interleave_datasets
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader

from gemma_lisa.datasets_builder import shards, streams
from gemma_lisa.datasets_builder.mixture import load_mixture
from gemma_lisa.datasets_builder.questions import Part
from gemma_lisa.datasets_builder.rows import ROW_FEATURES
from gemma_lisa.datasets_builder.streams import StreamedQuestions, open_stream
from gemma_lisa.datasets_builder.synthetic.shapes import row_of_scene
from gemma_lisa.datasets_builder.synthetic.shapes_easy import draw_scene

SIZES = {"wide": 40, "few": 9}
SHARES = {"wide": 3.0, "few": 1.0}
SHARDS = 4


def conversation_row(source, image=None):
    turn = {"question": f"What of {source}?", "answer": "Nothing."}
    return {"image": image, "source": source, "targets": [], "conversation": [turn]}


def write(folder, rows, count=SHARDS):
    """Write prepared rows in `count` shards and return the folder."""
    shards.write_shards({"train": Dataset.from_list(rows, features=ROW_FEATURES)}, folder, str(folder), shards=count)
    return str(folder)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(shards, "ROWS_PER_GROUP", 2)
    monkeypatch.setattr(streams, "MIXED_ROWS", 3)


@pytest.fixture
def folders(tmp_path):
    return {
        name: write(tmp_path / name, [conversation_row(f"{name}/{at}") for at in range(size)])
        for name, size in SIZES.items()
    }


@pytest.fixture
def parts(folders):
    return [Part(name, open_stream(folder, "train", None), SHARES[name]) for name, folder in folders.items()]


def said(sample):
    return sample["source"], tuple(conversation.turns for conversation in sample["conversations"])


def read(questions, batches, workers=0, batch_size=2):
    """Return the first batches of a process from its data loader."""
    loader = DataLoader(questions, batch_size, num_workers=workers, collate_fn=list)
    return [[sample and said(sample) for sample in batch] for batch in islice(loader, batches)]


# --- order and shares ------------------------------------------------------------------------------------------------
def test_rows_are_repeated_only_after_all_rows_and_in_another_order(parts):
    rows = [row["source"] for row in islice(parts[0].rows.read((5,), [0], 1), 3 * 40)]
    passes = [rows[start : start + 40] for start in (0, 40, 80)]
    assert all(sorted(found) == sorted(f"wide/{at}" for at in range(40)) for found in passes)
    assert len({tuple(found) for found in passes}) == 3
    assert passes[0] != [f"wide/{at}" for at in range(40)]
    assert rows == [row["source"] for row in islice(parts[0].rows.read((5,), [0], 1), 3 * 40)]
    assert rows != [row["source"] for row in islice(parts[0].rows.read((6,), [0], 1), 3 * 40)]


def test_samples_have_the_shares_of_the_mixture(parts):
    sets = Counter(said(sample)[0].split("/")[0] for sample in islice(StreamedQuestions(parts, 0, 3), 2000))
    assert sets["wide"] == pytest.approx(1500, abs=4 * (2000 * 0.75 * 0.25) ** 0.5)
    assert sets["wide"] + sets["few"] == 2000
    lines = StreamedQuestions(parts, 0, 3).describe()
    assert "75.0%, of 40 rows in 4 shards" in lines[1] and "25.0%, of 9 rows in 4 shards" in lines[2]


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (1, 2), (2, 0), (2, 2), (4, 1)])
def test_each_row_is_read_by_exactly_one_worker_of_one_rank(parts, ranks, workers):
    read_by, drawn = {}, {}
    for rank in range(ranks):
        questions = StreamedQuestions(parts, 1, 3, None, rank, ranks, workers)
        for at, batch in enumerate(read(questions, 60, workers)):
            for source, _ in batch:
                reader = (rank, at % max(1, workers))
                read_by.setdefault(source, set()).add(reader)
                drawn.setdefault(reader, []).append(source.split("/")[0])
    assert len(read_by) == sum(SIZES.values())
    assert all(len(readers) == 1 for readers in read_by.values())
    assert len({tuple(sets) for sets in drawn.values()}) == len(drawn)  # all readers draw different sequences of sets


@pytest.mark.parametrize("workers", [0, 2, 4])
def test_skipped_samples_are_none_and_the_others_do_not_change(parts, workers, monkeypatch):
    whole = read(StreamedQuestions(parts, 1, 3, workers=workers), 12, workers)
    assert whole == read(StreamedQuestions(parts, 1, 3, workers=workers), 12, workers)
    assert whole != read(StreamedQuestions(parts, 2, 3, workers=workers), 12, workers)
    resumed = StreamedQuestions(parts, 1, 3, workers=workers)
    resumed.skip(5, 2)
    assert read(resumed, 12, workers) == [[None, None]] * 5 + whole[5:]


def test_samples_have_the_picturesand_masks_of_their_rows(tmp_path):
    generators = [np.random.default_rng(number) for number in range(4)]
    rows = [row_of_scene(draw_scene(g, 32), g, False, f"drawn/{at}") for at, g in enumerate(generators)]
    stream = open_stream(write(tmp_path / "drawn", rows), "train", None)
    sample = next(iter(StreamedQuestions([Part("drawn", stream, 1.0)], 0, 9)))
    row = rows[int(sample["source"].split("/")[1])]
    assert sample["image"].size == (32, 32)
    masks = [None if masks is None else len(masks) for masks in sample["masks"]]
    assert masks == [*(len(target["masks"]) for target in row["targets"]), None]  # the last is its own conversation


def test_memory_of_a_reader_is_a_few_row_groups_and_not_whole_shards(tmp_path):
    image = {"bytes": b"", "path": "photo.jpg"}
    size = 20_000  # bytes per image
    pictures = [{**image, "bytes": np.random.default_rng(at).bytes(size)} for at in range(200)]
    stream = open_stream(
        write(tmp_path / "big", [conversation_row(f"big/{at}", p) for at, p in enumerate(pictures)]), "train", None
    )
    del pictures
    tracemalloc.start()
    before, arrow = pyarrow.total_allocated_bytes(), 0
    for _ in islice(stream.read((0,), [0], 1), 400):
        arrow = max(arrow, pyarrow.total_allocated_bytes() - before)
    held = arrow + tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size * 3 < held < size * 60


# --- limits of 🤗 Datasets that streams.py works around ---------------------------------------------------------------
def sources(rows):
    return [row["source"] for row in rows]


def test_interleave_datasets_repeats_a_set_in_the_same_order_and_stops_within_a_pass(parts):
    shuffled = [part.rows.rows.reshard().shuffle(seed=0, buffer_size=3) for part in parts]
    mixed = interleave_datasets(shuffled, probabilities=[0.75, 0.25], seed=0, stopping_strategy="all_exhausted")
    few = [source for source in sources(mixed) if source.startswith("few/")]
    assert len(few) > SIZES["few"] and len(few) % SIZES["few"]
    assert few[SIZES["few"] :] == few[: len(few) - SIZES["few"]]


def test_repeat_yields_the_same_order_in_each_pass(parts):
    endless = parts[1].rows.rows.reshard().shuffle(seed=0, buffer_size=3).repeat(None)
    twice = sources(islice(endless, 2 * SIZES["few"]))
    assert sorted(twice[: SIZES["few"]]) == [f"few/{at}" for at in range(SIZES["few"])]
    assert twice[SIZES["few"] :] == twice[: SIZES["few"]]


def test_split_dataset_by_node_gives_a_row_to_another_reader_in_the_next_pass(parts):
    def read_by(rank, seed):
        rows = parts[0].rows.rows.reshard().shuffle(seed=seed, buffer_size=3)
        return set(sources(split_dataset_by_node(rows, rank, 2, strategy="shards")))

    assert not read_by(0, seed=0) & read_by(1, seed=0)
    assert read_by(0, seed=0) & read_by(1, seed=1)


def test_a_state_dict_of_shuffled_rows_does_not_resume_exactly(parts):
    def shuffled():
        return parts[0].rows.rows.reshard().shuffle(seed=0, buffer_size=10)

    whole, stopped, resumed = sources(shuffled()), shuffled(), shuffled()
    assert whole == sources(shuffled())
    reader = iter(stopped)
    assert sources(islice(reader, 15)) == whole[:15]
    resumed.load_state_dict(stopped.state_dict())
    assert sources(resumed) != whole[15:]


# --- held-out photos -------------------------------------------------------------------------------------------------
def photo(number):
    return {"bytes": b"not looked at", "path": f"{number:012d}.jpg"}


def test_rows_with_held_out_photos_are_skipped_and_counted(tmp_path, caplog):
    folder = write(tmp_path / "photos", [conversation_row(f"photos/{at}", photo(at)) for at in range(20)])
    held_out = {number: "refcoco/unc/validation" for number in (*range(5), 11)}
    stream = open_stream(folder, "train", held_out)
    assert f"{folder}: skipped 6 of 20 rows" in caplog.text
    assert (len(stream), stream.kept) == (14, [0, 5, 4, 5])
    rows = [row["source"] for row in islice(stream.read((0,), [0], 1), 14)]
    assert sorted(rows) == sorted(f"photos/{at}" for at in range(20) if at not in held_out)
    assert len(open_stream(folder, "train", None)) == 20


def test_held_out_photos_are_recognized_by_source_and_unnamed_picturesgive_a_warning(tmp_path, caplog):
    unnamed = {"bytes": b"not looked at", "path": None}
    folder = write(tmp_path / "few", [conversation_row(f"few/{at:012d}", unnamed) for at in range(4)])
    assert open_stream(folder, "train", {2: "refcoco/unc/testA"}).kept == [1, 1, 0, 1]
    assert f"{folder}: 4 of its images have no file name" in caplog.text
    open_stream(folder, "train", {})
    assert "no refs of a referring data set were found" in caplog.text
    with pytest.raises(ValueError, match="all 4 rows show photos of validation or test splits.*set allow_leakage"):
        open_stream(folder, "train", dict.fromkeys(range(4), "refcoco/unc/testA"))


# --- errors ----------------------------------------------------------------------------------------------------------
def test_fewer_shards_than_readers_are_refused_with_a_fix(parts):
    with pytest.raises(ValueError) as refusal:
        StreamedQuestions(parts, 0, 3, ranks=2, workers=4)
    assert str(refusal.value) == (
        "wide: 8 readers (2 processes, 4 data loader workers each) need at least one shard each, but there are "
        "only 4; set --dataloader_num_workers to at most 2, or write at least 8 shards (`prepare NAME ... --shards 8`)."
    )
    with pytest.raises(ValueError, match="5 readers .* only 4; write at least 5 shards"):
        StreamedQuestions(parts, 0, 3, ranks=5)


def test_reader_with_only_held_out_photos_is_refused_and_uneven_readers_give_a_warning(tmp_path, caplog):
    folder = write(tmp_path / "photos", [conversation_row(f"photos/{at}", photo(at)) for at in range(8)])
    with pytest.raises(ValueError, match="with 4 readers .* at least one reader have no rows that can be trained on"):
        part = Part("photos", open_stream(folder, "train", {0: "refcoco/unc/val", 1: "refcoco/unc/val"}), 1.0)
        StreamedQuestions([part], 0, 3, ranks=4)
    part = Part("photos", open_stream(folder, "train", None), 1.0)
    StreamedQuestions([part], 0, 3, ranks=2)
    assert "rows each" not in caplog.text
    StreamedQuestions([part], 0, 3, ranks=3)
    assert "photos: the 4 shards give the 3 readers between 2 and 4 rows each" in caplog.text


@pytest.mark.parametrize(
    ("sets", "word"),
    [
        (["ade20k"], "ade20k: streaming requires prepared rows; run `.*prepare ade20k`"),
        ({"wide": {"seed": 1}}, "prepared rows do not support options, got seed"),
        (["saved"], "the output of save_to_disk cannot be streamed"),
        (["nothing"], "no prepared rows"),
        (["broken"], "cannot be read as Parquet"),
        (["someone/rows"], "there is no such folder"),
    ],
    ids=["builder", "options", "saved to disk", "empty folder", "broken", "not on the Hub"],
)
def test_sets_that_cannot_be_streamed_are_refused_in_one_line(folders, tmp_path, monkeypatch, own_cache, sets, word):
    Dataset.from_list([conversation_row("saved/0")], features=ROW_FEATURES).save_to_disk(tmp_path / "saved")
    (tmp_path / "nothing").mkdir()
    write(tmp_path / "broken", [conversation_row("broken/0")], 1)
    (tmp_path / "broken/data/train-00000-of-00001.parquet").write_bytes(b"PAR1")
    (tmp_path / "nothing/empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=word) as refusal:
        load_mixture({"all": {"weight": 1, "sets": sets}}, "train", None, {}, streaming=True)
    assert "\n" not in str(refusal.value)


# --- the Hub ---------------------------------------------------------------------------------------------------------
def test_hub_data_set_is_streamed_from_its_urls(folders, monkeypatch, tmp_path):
    places = [str(path) for path in sorted((tmp_path / "few/data").iterdir())]
    files = {"train": places, "notes": ["notes.csv"]}
    builder = SimpleNamespace(config=SimpleNamespace(data_files=files))
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda name: {"someone/few": builder}[name])
    groups = {"all": {"weight": 1, "sets": ["someone/few"], "by_size": True}}
    [part] = load_mixture(groups, "train", None, {}, streaming=True)
    assert {row["source"] for row in islice(part.rows.read((0,), [0], 1), 9)} == {f"few/{at}" for at in range(9)}
    with pytest.raises(ValueError, match="someone/few has no split 'dev'; it has: train, notes"):
        open_stream("someone/few", "dev", None)
    with pytest.raises(ValueError, match="notes.csv is not Parquet"):
        open_stream("someone/few", "notes", None)
