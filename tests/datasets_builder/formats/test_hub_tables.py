"""Tables of the Hub: Parquet shards and the output of save_to_disk give the same rows; damaged ones are refused."""

import datasets
import numpy as np
import pyarrow
import pytest
from hub_tables import FEATURES, box, row, write_table

from gemma_lisa.datasets_builder.formats.hub_tables import HubTable, mask_of, nesting

ROWS = [row(f"{number}", f"thing {number}", box(0, 0, 1 + number % 4, 3)) for number in range(20)]
COLUMNS = ["text", "mask"]


def contents(folder):
    return [part for batch in HubTable(folder).batches(COLUMNS) for part in batch.to_pylist()]


def test_shards_and_both_outputs_of_save_to_disk_give_the_same_rows_in_order(tmp_path):
    write_table(tmp_path / "parquet", ROWS, shards=3)
    table = datasets.Dataset.from_list(ROWS, features=FEATURES)
    table.save_to_disk(tmp_path / "plain")
    datasets.DatasetDict({"test": table}).save_to_disk(tmp_path / "splits")
    expected = [{"text": part["text"], "mask": part["mask"]} for part in ROWS]
    for name in ("parquet", "plain", "splits"):
        assert contents(tmp_path / name) == expected, name
        assert set(HubTable(tmp_path / name).schema.names) == set(FEATURES), name


def test_photos_saved_to_disk_keep_their_content(tmp_path):
    datasets.Dataset.from_list(ROWS, features=FEATURES).save_to_disk(tmp_path / "plain")
    write_table(tmp_path / "parquet", ROWS)
    images = [
        [batch.to_pylist() for batch in HubTable(tmp_path / name).batches(["image"])] for name in ("plain", "parquet")
    ]
    assert images[0][0][0]["image"]["bytes"] == images[1][0][0]["image"]["bytes"] == ROWS[0]["image"]["bytes"]


def remove_a_shard(folder):
    (folder / "data/test-00001-of-00002.parquet").unlink()


def cut(folder):
    path = folder / "data/test-00000-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-20])


def add_a_split(folder):
    path = folder / "data/test-00000-of-00002.parquet"
    (folder / "train-00000-of-00001.parquet").write_bytes(path.read_bytes())


def empty(folder):
    for path in folder.rglob("*.parquet"):
        path.unlink()


def pointer(folder):
    (folder / "data/test-00000-of-00002.parquet").write_text("version https://git-lfs.github.com/spec/v1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_a_shard, "contains 1 of 2 Parquet files; download all of them"),
        (cut, "test-00000-of-00002.parquet cannot be read as Parquet .*; download it again"),
        (pointer, "test-00000-of-00002.parquet cannot be read as Parquet .*; download it again"),
        (add_a_split, "contains the splits .*, but must contain one"),
        (empty, "contains no Parquet files and no output of save_to_disk"),
        (lambda folder: (folder / "state.json").write_text("{}"), "cannot be read .*; save it to disk again"),
    ],
)
def test_incomplete_or_damaged_folder_is_refused_in_one_line(tmp_path, change, message):
    write_table(tmp_path, ROWS, shards=2)
    change(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        contents(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([[True, False], [False, True]], pyarrow.list_(pyarrow.list_(pyarrow.bool_()))),
        ([[1, 0], [0, 1]], pyarrow.list_(pyarrow.list_(pyarrow.uint8()))),
        ([[True, False], [False, True]], pyarrow.large_list(pyarrow.list_(pyarrow.bool_(), 2))),
    ],
)
def test_masks_of_booleans_and_numbers_in_any_kind_of_list_are_equal(values, kind):
    column = pyarrow.array(
        [[[1, 1]], values] if kind.value_type.value_type != pyarrow.bool_() else [[[True, True]], values], kind
    )
    assert nesting(kind) == 2
    found = mask_of(column[1].values, "here")
    assert found.dtype == bool and np.array_equal(found, [[True, False], [False, True]])


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ([[True], [True, False]], pyarrow.bool_(), "must have the same length"),
        ([[]], pyarrow.bool_(), "must have the same length of at least 1 pixel"),
        ([], pyarrow.bool_(), "must have the same length of at least 1 pixel"),
        ([[True, None]], pyarrow.bool_(), "must be booleans, or the numbers 0 and 1"),
        ([None, [True]], pyarrow.bool_(), "must have the same length"),
        ([[0, 255]], pyarrow.uint8(), "must be booleans, or the numbers 0 and 1, got 255"),
        ([[0.0, 1.0]], pyarrow.float32(), "must be booleans, or the numbers 0 and 1"),
    ],
)
def test_mask_with_other_rows_or_values_is_refused(values, kind, message):
    column = pyarrow.array([values], pyarrow.list_(pyarrow.list_(kind)))
    with pytest.raises(ValueError, match=f"here: .*{message}"):
        mask_of(column[0].values, "here")
