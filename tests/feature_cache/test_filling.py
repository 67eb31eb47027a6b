"""Filling: each missing image is encoded once, within the given space, also by several processes at once."""

import errno
import json
import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from feature_cached import all_of, cache_of, counted_encoders, files_in, photo, row, rows_of, text_row

from gemma_lisa.feature_cache import entries, filling
from gemma_lisa.feature_cache.entries import HEADER
from gemma_lisa.feature_cache.filling import Processes, fill, find_images
from gemma_lisa.safety.errors import WriteError

PATHS = os.pathsep.join([*sys.path, str(Path(__file__).parents[1])])


def filled(cache, small, rows, **options):
    return fill(cache, *small, all_of(rows), show_progress=False, **options)


def is_cached(cache, rows):
    return [cache.find(found["image"], "") is not None for found in rows]


def test_each_distinct_image_is_encoded_once_and_a_second_run_encodes_none(small, tmp_path):
    lines, cache = [], cache_of(tmp_path / "cache", small)
    rows = rows_of([0, 1, 2, 1, 0], [text_row()])
    with counted_encoders(small[0]) as calls:
        assert filled(cache, small, rows, log=lines.append) == 0
        assert calls == {"sam": 3, "gemma": 3}
        assert filled(cache_of(tmp_path / "cache", small), small, rows, log=lines.append) == 0
        assert calls == {"sam": 3, "gemma": 3}
    assert len(files_in(cache.folder)) == 6
    start = f"caching the features of 3 images: 0.0 GB in {cache.folder}"
    assert lines == [f"{start}, 0 already there", f"{start}, 3 already there"]


def test_new_images_are_added(small, tmp_path):
    cache = cache_of(tmp_path, small)
    filled(cache, small, rows_of(range(3)))
    before = {path: path.stat().st_mtime_ns for path in files_in(tmp_path)}
    filled(cache, small, rows_of(range(5)))
    after = {path: path.stat().st_mtime_ns for path in files_in(tmp_path)}
    assert len(after) == 10 and before.items() <= after.items()


@pytest.mark.parametrize("length", [0, 70])
def test_a_truncated_entry_is_computed_again(small, tmp_path, caplog, length):
    cache, rows = cache_of(tmp_path, small), rows_of(range(3))
    filled(cache, small, rows)
    path = files_in(tmp_path)[2]
    whole = path.read_bytes()
    path.write_bytes(whole[:length])
    with caplog.at_level(logging.WARNING):
        assert filled(cache, small, rows) == 0
    assert path.read_bytes() == whole
    reason = "the file is truncated" if length < HEADER.size else f"the file has {length} bytes, expected {len(whole)}"
    lines = [record.getMessage().replace(",", "") for record in caplog.records]
    assert lines == [f"{path} is damaged ({reason.replace(',', '')}). The image is encoded again."]


def test_only_images_that_fit_are_cached(small, tmp_path, caplog):
    cache, rows = cache_of(tmp_path / "cache", small), rows_of(range(4))
    max_gb = 2.5 * cache.entry_bytes / 1e9
    with caplog.at_level(logging.WARNING):
        assert filled(cache, small, rows, max_gb=max_gb) == 2
    assert is_cached(cache, rows) == [True, True, False, False]
    assert filling.size_of(cache.folder) <= max_gb * 1e9
    [line] = [record.getMessage() for record in caplog.records]
    assert "does not fit" in line and "cache_gb" in line and "2 of them are cached" in line
    assert filled(cache, small, rows, max_gb=max_gb) == 2  # other entries in the folder count too


def test_space_of_the_disk_is_kept_free(small, tmp_path, caplog, monkeypatch):
    cache, rows = cache_of(tmp_path, small), rows_of(range(4))
    monkeypatch.setattr(filling, "free_bytes", lambda _: filling.KEPT_FREE + int(3.5 * cache.entry_bytes))
    with caplog.at_level(logging.WARNING):
        assert filled(cache, small, rows) == 1
    assert "the disk has" in caplog.text and is_cached(cache, rows) == [True, True, True, False]
    monkeypatch.setattr(filling, "free_bytes", lambda _: 5)
    assert filled(cache, small, rows) == 1


def test_a_full_disk_is_announced_once_and_what_is_there_is_used(small, tmp_path, caplog, monkeypatch):
    cache, rows = cache_of(tmp_path, small), rows_of(range(7))
    write, written = entries.write_file, []

    def full(path, *parts):
        write(path, *parts)
        written.append(path)
        if len(written) > 5:  # in the middle of the third image
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(entries, "write_file", full)
    with caplog.at_level(logging.WARNING):
        assert filled(cache, small, rows) == 5
    [line] = [record.getMessage() for record in caplog.records]
    assert "the disk is full" in line and "5 more images" in line and "\n" not in line
    assert is_cached(cache, rows) == [True, True] + [False] * 5
    assert all(path.suffix == ".features" for path in files_in(tmp_path))
    monkeypatch.setattr(entries, "write_file", write)
    assert filled(cache, small, rows) == 0 and all(is_cached(cache, rows))


def test_a_folder_that_cannot_be_written_is_an_error_of_one_line(small, tmp_path):
    (tmp_path / "file").write_text("")
    cache = cache_of(tmp_path / "file" / "cache", small)
    with pytest.raises(WriteError, match=r"cannot be written \(.+\)\.$"):
        filled(cache, small, rows_of([0]))


def test_an_image_that_cannot_be_read_is_an_error_with_its_row(small, tmp_path):
    rows = rows_of([0], [row(9, b"no image")])
    with pytest.raises(ValueError, match="photos/9: the image cannot be read"):
        filled(cache_of(tmp_path, small), small, rows)


def test_old_unfinished_files_are_deleted_and_new_ones_are_kept(small, tmp_path):
    partial = tmp_path / "partial"
    partial.mkdir()
    for name, age in (("old", 2 * filling.OLD), ("new", 0)):
        (partial / name).write_bytes(b"")
        os.utime(partial / name, (time.time() - age,) * 2)
    filled(cache_of(tmp_path, small), small, rows_of([0]))
    assert [path.name for path in partial.iterdir()] == ["new"]


def test_an_image_that_another_run_has_cached_meanwhile_is_not_encoded(small, tmp_path, monkeypatch):
    cache, rows, planned = cache_of(tmp_path, small), rows_of(range(2)), filling.plan

    def slow_plan(*arguments):
        count = planned(*arguments)
        monkeypatch.setattr(filling, "plan", planned)
        filled(cache, small, rows)  # the other run
        return count

    monkeypatch.setattr(filling, "plan", slow_plan)
    with counted_encoders(small[0]) as calls:
        assert filled(cache, small, rows) == 0
    assert calls == {"sam": 2, "gemma": 2}


def test_two_ranks_find_the_same_images_and_share_the_work(small, tmp_path):
    """The ranks take turns here: each is replayed with what the other one gathered."""
    rows = rows_of([0, 1, 2, 3, 1])
    alone = find_images(all_of(rows), Processes())
    parts = []
    for rank in range(2):
        find_images(all_of(rows), Processes(rank, 2, lambda mine: parts.append(mine) or [mine]))
    together = find_images(all_of(rows), Processes(0, 2, lambda _: parts))
    assert [alone.key(at) for at in range(4)] == [together.key(at) for at in range(4)]
    assert len(together) == 4 and np.array_equal(alone.places, together.places)


def test_a_path_is_read_once(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(photo(0))
    read = []
    monkeypatch.setattr(filling, "content_of", lambda image: read.append(image) or photo(0))
    rows = rows_of([], [row(1, str(path)), row(2, str(path)), text_row()])
    assert len(find_images(all_of(rows), Processes())) == 1 and len(read) == 1


PROGRAM = """
import json, os, sys
import torch
from feature_cached import all_of, cache_of, rows_of
from gemma_lisa.feature_cache.entries import HEADER
from gemma_lisa.feature_cache.filling import Processes, fill
from gemma_lisa.scripts.init_tiny import build_tiny
from gemma_lisa.training.cache_filling import gather

torch.set_num_threads(1)
ranks = int(os.environ.get("WORLD_SIZE", 1))
rank = int(os.environ["RANK"]) if ranks > 1 else 0
if ranks > 1:
    torch.distributed.init_process_group("gloo")
small = build_tiny(image_size=32)
cache = cache_of(sys.argv[1], small)
count = []
write = cache.write
cache.write = lambda *given: count.append(given) or write(*given)
missing = fill(cache, *small, all_of(rows_of(range(24))), processes=Processes(rank, ranks, gather), show_progress=False)
print(json.dumps([missing, len(count)]))
"""


def run_two(folder, **environment):
    """Run the program in two processes at once and return (missing, written) of each."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder)],
            env={
                **os.environ,
                "PYTHONPATH": PATHS,
                "RANK": str(rank),
                **environment,
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def check_complete(folder, small):
    cache, rows = cache_of(folder, small), rows_of(range(24))
    images = [cache.find(found["image"], "") for found in rows]
    assert all(torch.isfinite(features).all() for features in cache.read(images).values())
    assert len(files_in(folder)) == 48


def test_two_runs_at_once_fill_one_folder(small, tmp_path):
    found = run_two(tmp_path / "cache")
    assert [missing for missing, _ in found] == [0, 0] and sum(written for _, written in found) >= 24
    check_complete(tmp_path / "cache", small)


def test_two_processes_of_a_run_encode_half_of_the_images_each(small, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    found = run_two(tmp_path / "cache", WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=str(port))
    assert found == [[0, 12], [0, 12]]
    check_complete(tmp_path / "cache", small)
