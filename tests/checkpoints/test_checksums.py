"""Weights that changed after they were saved are noticed before they are used."""

import shutil
import subprocess

import pytest
import torch
from transformers import AutoModel

from gemma_lisa.checkpoints.adapter_base import identify
from gemma_lisa.checkpoints.checksums import CHECKSUMS, check_checksums, write_checksums
from gemma_lisa.checkpoints.loading import EXAMPLE, check_hub_checksums, load_checkpoint
from gemma_lisa.checkpoints.lora import add_lora
from gemma_lisa.scripts import init_tiny
from gemma_lisa.scripts.init_checkpoint import save_whole
from gemma_lisa.scripts.init_tiny import build_tiny
from gemma_lisa.training.resume import Start, check_start


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint in several files with its checksums."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    model, processor = build_tiny(image_size=32)
    model.save_pretrained(folder, max_shard_size="1MB")
    processor.save_pretrained(folder)
    write_checksums(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def flip(path, at, bit=1):
    content = bytearray(path.read_bytes())
    content[at] ^= bit
    path.write_bytes(content)


def test_a_checkpoint_as_it_was_saved_opens(folder):
    load_checkpoint(folder)
    listed = [line.split("  ")[1] for line in (folder / CHECKSUMS).read_text().splitlines()]
    assert listed == sorted(path.name for path in folder.iterdir() if ".safetensors" in path.name) and len(listed) > 3
    assert subprocess.run(["sha256sum", "--quiet", "-c", CHECKSUMS], cwd=folder).returncode == 0


@pytest.mark.parametrize("at", [-1, -50_000, 9000])
def test_one_flipped_bit_of_any_file_is_told_in_one_line(folder, at):
    path = sorted(folder.glob("*.safetensors"))[1]
    flip(path, at)
    with pytest.raises(ValueError, match=f"{path}: the file is not the one that was saved") as refusal:
        load_checkpoint(folder)
    assert "\n" not in str(refusal.value) and f"delete {CHECKSUMS}" in str(refusal.value)
    (folder / CHECKSUMS).unlink()
    load_checkpoint(folder)  # as before there were checksums


def test_files_that_changed_places_are_told(folder):
    one, other = sorted(folder.glob("*.safetensors"))[:2]
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    with pytest.raises(ValueError, match=r"is not the one that was saved"):
        load_checkpoint(folder)


def test_a_listed_file_that_is_missing_is_told(folder):
    path = sorted(folder.glob("*.safetensors"))[0]
    path.unlink()
    with pytest.raises(ValueError, match=f"{path}: the file is missing"):
        load_checkpoint(folder)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"abc  model.safetensors\n", b"0" * 64 + b"  ../other\n"])
def test_a_list_that_cannot_be_read_is_told_with_its_line(folder, content):
    (folder / CHECKSUMS).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{CHECKSUMS}, line 1: expected a SHA-256"):
        load_checkpoint(folder)


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_list_is_refused(tmp_path, content):
    (tmp_path / CHECKSUMS).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{CHECKSUMS}(: the list is empty|, line 1: expected a SHA-256)"):
        check_checksums(tmp_path)


@pytest.mark.parametrize("missing_is_fine", [False, True])
def test_weights_that_the_list_does_not_name_are_refused(tmp_path, missing_is_fine):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    write_checksums(tmp_path)
    check_checksums(tmp_path, missing_is_fine)
    (tmp_path / "model-2.safetensors").write_bytes(b"others")
    with pytest.raises(ValueError, match=rf"model-2.safetensors: {CHECKSUMS} does not list this file"):
        check_checksums(tmp_path, missing_is_fine)


def test_saving_over_a_checkpoint_with_stock_calls_leaves_one_that_opens(folder):
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        model.seg_projector[0].bias += 1
    model.save_pretrained(folder)
    again, _ = load_checkpoint(folder)
    assert torch.equal(again.seg_projector[0].bias, model.seg_projector[0].bias)


def test_an_adapter_has_checksums_of_its_own(folder, tmp_path):
    model, processor = load_checkpoint(folder)
    for part in (add_lora(model, rank=2, base=identify(folder)), processor):
        part.save_pretrained(tmp_path / "adapter")
    load_checkpoint(tmp_path / "adapter")
    flip(tmp_path / "adapter" / "adapter_model.safetensors", -1)
    with pytest.raises(ValueError, match=r"adapter_model.safetensors: the file is not the one that was saved"):
        load_checkpoint(tmp_path / "adapter")


def test_a_damaged_checkpoint_is_not_resumed_from(folder):
    check_start(Start(str(folder)))
    flip(folder / sorted(folder.glob("*.safetensors"))[0].name, -1)
    with pytest.raises(ValueError, match=r"not the one that was saved.*--resume_from_checkpoint FOLDER"):
        check_start(Start(str(folder)))


def test_the_programs_that_make_checkpoints_write_checksums(tmp_path):
    init_tiny.main(["--output", str(tmp_path / "tiny"), "--image_size", "32"])
    save_whole(*build_tiny(image_size=32), tmp_path / "whole")
    for name in ("tiny", "whole"):
        check_checksums(tmp_path / name)
        assert (tmp_path / name / CHECKSUMS).read_text().endswith("  model.safetensors\n")


def test_the_example_is_as_it_was_saved():
    assert (EXAMPLE / CHECKSUMS).is_file()
    check_checksums(EXAMPLE)


def test_a_folder_without_weights_gets_no_list(tmp_path):
    (tmp_path / CHECKSUMS).write_text("old")
    write_checksums(tmp_path)
    assert not (tmp_path / CHECKSUMS).exists()
    check_checksums(tmp_path)


def test_of_a_repository_in_the_cache_what_is_there_is_checked(folder, monkeypatch):
    monkeypatch.setattr(
        "gemma_lisa.checkpoints.loading.hf_hub_download", lambda name, file, revision: str(folder / file)
    )
    one, other = sorted(folder.glob("*.safetensors"))[:2]
    one.unlink()
    check_hub_checksums("org/name", None)
    flip(other, -1)
    with pytest.raises(ValueError, match="not the one that was saved"):
        check_hub_checksums("org/name", None)


def test_a_repository_without_checksums_opens():
    check_hub_checksums("org/never-downloaded", None)
