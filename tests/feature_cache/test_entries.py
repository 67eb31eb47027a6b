"""Entries: what is written is read, damage of every kind is noticed, and nothing is left after a failed write."""

import errno

import numpy as np
import pytest
import torch

from gemma_lisa.feature_cache import entries
from gemma_lisa.feature_cache.entries import HEADER, DamagedEntry, Sizes, entry_bytes, read_entry, read_sizes

SIZES = Sizes((48, 24), (64, 32))


@pytest.fixture
def entry(tmp_path):
    """(path, features) of a written entry."""
    features = torch.randn(3, 5, 2)
    entries.write_entry(tmp_path / "ab" / "some.features", features, SIZES, tmp_path / "partial")
    return tmp_path / "ab" / "some.features", features


@pytest.mark.parametrize("shape", [(3, 5, 2), (4, 6), (7,)])
def test_an_entry_is_read_as_it_was_written_and_rounded_to_bf16(tmp_path, shape):
    features, path = torch.randn(*shape), tmp_path / "some.features"
    entries.write_entry(path, features, SIZES, tmp_path / "partial")
    sizes, found = read_entry(path, shape)
    assert sizes == SIZES == read_sizes(path, shape)
    assert found.dtype == torch.bfloat16 and torch.equal(found, features.bfloat16())
    assert path.stat().st_size == entry_bytes(shape)
    assert not list((tmp_path / "partial").iterdir())


def test_a_missing_entry_is_none(tmp_path):
    assert read_entry(tmp_path / "none", (3,)) is None and read_sizes(tmp_path / "none", (3,)) is None


@pytest.mark.parametrize("length", [0, 10, HEADER.size, HEADER.size + 30])
def test_a_truncated_entry_is_damaged(entry, length):
    path, features = entry
    path.write_bytes(path.read_bytes()[:length])
    for read in (read_entry, read_sizes):
        with pytest.raises(DamagedEntry, match="truncated|bytes, expected"):
            read(path, tuple(features.shape))


@pytest.mark.parametrize("place", [0, 9, 20, HEADER.size - 1])
def test_a_changed_header_is_damaged(entry, place):
    path, features = entry
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    for read in (read_entry, read_sizes):
        with pytest.raises(DamagedEntry, match="header"):
            read(path, tuple(features.shape))


@pytest.mark.parametrize("place", [HEADER.size, -1])
def test_a_changed_value_is_noticed_when_the_features_are_read(entry, place):
    path, features = entry
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedEntry, match="checksum"):
        read_entry(path, tuple(features.shape))


def test_an_entry_of_another_shape_is_damaged(entry):
    with pytest.raises(DamagedEntry, match="shape"):
        read_entry(entry[0], (3, 2, 5))


def test_read_features_can_change_without_changing_the_file(entry):
    path, features = entry
    before = path.read_bytes()
    read_entry(path, tuple(features.shape))[1].zero_()
    assert path.read_bytes() == before


def test_a_full_disk_leaves_no_file_and_keeps_the_old_entry(entry, monkeypatch, tmp_path):
    path, features = entry
    before = path.read_bytes()

    def full(target, *parts):
        target.write_bytes(parts[0])  # a part of the file was written
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(entries, "write_file", full)
    with pytest.raises(OSError, match="No space"):
        entries.write_entry(path, features + 1, SIZES, tmp_path / "partial")
    assert path.read_bytes() == before
    assert not list((tmp_path / "partial").iterdir())


def test_values_are_little_endian_bf16_after_the_header(entry):
    path, features = entry
    stored = np.frombuffer(path.read_bytes()[HEADER.size :], dtype="<u2").astype(np.uint32) << 16
    assert np.array_equal(stored.view(np.float32), features.bfloat16().float().numpy().ravel())
