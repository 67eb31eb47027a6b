"""Base classes of published data sets: changed files, missing files and metadata."""

import os
from dataclasses import dataclass

import pytest

from gemma_lisa.datasets_builder.published.ade20k import Ade20k
from gemma_lisa.datasets_builder.published.archives import ArchiveConfig, require_file
from gemma_lisa.datasets_builder.published.refer import Refcoco


@dataclass
class MadeConfig(ArchiveConfig):
    def index_paths(self):
        return [self.root]


def state_of(folder):
    return MadeConfig(name="default", data_dir=str(folder)).state_of_files()


def test_state_changes_with_each_file_below_a_folder(tmp_path):
    file = tmp_path / "00/images/25.jpg"
    file.parent.mkdir(parents=True)
    states = [state_of(tmp_path)]
    file.write_bytes(b"photo")
    states.append(state_of(tmp_path))
    os.utime(file, (1, 1))
    states.append(state_of(tmp_path))
    file.rename(file.with_name("26.jpg"))
    states.append(state_of(tmp_path))
    assert len({str(state) for state in states}) == 4 and state_of(tmp_path) == states[-1]


def test_link_to_a_parent_folder_is_skipped(tmp_path):
    (tmp_path / "up").symlink_to(tmp_path)
    elsewhere = tmp_path.with_name(f"{tmp_path.name}_elsewhere")
    elsewhere.mkdir()
    (tmp_path / "down").symlink_to(elsewhere)
    before = state_of(tmp_path)
    (elsewhere / "1.jpg").write_bytes(b"photo")
    assert state_of(tmp_path) != before


def test_missing_folder_or_file_is_refused_with_download_instructions(tmp_path):
    (tmp_path / "ade20k").mkdir()
    builder = Ade20k(data_dir=str(tmp_path), cache_dir=str(tmp_path / "cache"))
    assert builder.folder() == tmp_path / "ade20k"
    (tmp_path / "ade20k").rmdir()
    for look in (builder.folder, lambda: require_file(tmp_path / "ade20k/list.txt", Ade20k.ARCHIVE)):
        with pytest.raises(
            ValueError, match="ade20k.*: no such .*ADE20K: Download ADEChallengeData2016.zip .*Homepage: http"
        ):
            look()
    with pytest.raises(ValueError, match="data_dir is missing"):
        Ade20k(cache_dir=str(tmp_path / "cache"))


def test_published_sizes_depend_on_the_configuration(tmp_path):
    folder = {"data_dir": str(tmp_path), "cache_dir": str(tmp_path / "cache")}
    assert Refcoco(config_name="unc", **folder).ARCHIVE.sizes["testA"] == 750
    assert Refcoco(config_name="google", **folder).ARCHIVE.sizes == {}
    builder = Ade20k(**folder)
    assert (builder.title, builder.ARCHIVE.sizes["train"]) == ("ADE20K", 20_210)
    assert builder.info.license == Ade20k.ARCHIVE.license
