"""Weights that changed after they were saved raise an error before they are used."""

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
    """A sharded checkpoint with checksums."""
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


def test_an_unchanged_checkpoint_loads(folder):
    load_checkpoint(folder)
    listed = [line.split("  ")[1] for line in (folder / CHECKSUMS).read_text().splitlines()]
    assert listed == sorted(path.name for path in folder.iterdir() if ".safetensors" in path.name) and len(listed) > 3
    assert subprocess.run(["sha256sum", "--quiet", "-c", CHECKSUMS], cwd=folder).returncode == 0


@pytest.mark.parametrize("at", [-1, -50_000, 9000])
def test_a_flipped_bit_in_any_file_is_an_error_of_one_line(folder, at):
    path = sorted(folder.glob("*.safetensors"))[1]
    flip(path, at)
    with pytest.raises(ValueError, match=f"{path}: the file is damaged or was replaced") as refusal:
        load_checkpoint(folder)
    assert "\n" not in str(refusal.value) and f"delete {CHECKSUMS}" in str(refusal.value)
    (folder / CHECKSUMS).unlink()
    load_checkpoint(folder)  # without checksums nothing is checked


def test_swapped_files_are_an_error(folder):
    one, other = sorted(folder.glob("*.safetensors"))[:2]
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged or was replaced"):
        load_checkpoint(folder)


def test_a_missing_listed_file_is_an_error(folder):
    path = sorted(folder.glob("*.safetensors"))[0]
    path.unlink()
    with pytest.raises(ValueError, match=f"{path}: the file is missing"):
        load_checkpoint(folder)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"abc  model.safetensors\n", b"0" * 64 + b"  ../other\n"])
def test_an_unreadable_list_is_an_error_that_names_the_line(folder, content):
    (folder / CHECKSUMS).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{CHECKSUMS}, line 1: expected a SHA-256"):
        load_checkpoint(folder)


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_list_is_an_error(tmp_path, content):
    (tmp_path / CHECKSUMS).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{CHECKSUMS}(: the file is empty|, line 1: expected a SHA-256)"):
        check_checksums(tmp_path)


@pytest.mark.parametrize("missing_is_fine", [False, True])
def test_unlisted_weights_are_an_error(tmp_path, missing_is_fine):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    write_checksums(tmp_path)
    check_checksums(tmp_path, missing_is_fine)
    (tmp_path / "model-2.safetensors").write_bytes(b"others")
    with pytest.raises(ValueError, match=rf"model-2.safetensors: {CHECKSUMS} does not list this file"):
        check_checksums(tmp_path, missing_is_fine)


def test_a_checkpoint_that_stock_save_pretrained_overwrote_loads(folder):
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        model.seg_projector[0].bias += 1
    model.save_pretrained(folder)
    again, _ = load_checkpoint(folder)
    assert torch.equal(again.seg_projector[0].bias, model.seg_projector[0].bias)


def test_an_adapter_has_its_own_checksums(folder, tmp_path):
    model, processor = load_checkpoint(folder)
    for part in (add_lora(model, rank=2, base=identify(folder)), processor):
        part.save_pretrained(tmp_path / "adapter")
    load_checkpoint(tmp_path / "adapter")
    flip(tmp_path / "adapter" / "adapter_model.safetensors", -1)
    with pytest.raises(ValueError, match=r"adapter_model.safetensors: the file is damaged or was replaced"):
        load_checkpoint(tmp_path / "adapter")


def test_resuming_from_a_damaged_checkpoint_is_an_error(folder):
    check_start(Start(str(folder)))
    flip(folder / sorted(folder.glob("*.safetensors"))[0].name, -1)
    with pytest.raises(ValueError, match=r"damaged or was replaced.*--resume_from_checkpoint FOLDER"):
        check_start(Start(str(folder)))


def test_programs_that_save_checkpoints_write_checksums(tmp_path):
    init_tiny.main(["--output", str(tmp_path / "tiny"), "--image_size", "32"])
    save_whole(*build_tiny(image_size=32), tmp_path / "whole")
    for name in ("tiny", "whole"):
        check_checksums(tmp_path / name)
        assert (tmp_path / name / CHECKSUMS).read_text().endswith("  model.safetensors\n")


def test_the_example_checkpoint_is_unchanged():
    assert (EXAMPLE / CHECKSUMS).is_file()
    check_checksums(EXAMPLE)


def test_a_folder_without_weights_gets_no_checksum_file(tmp_path):
    (tmp_path / CHECKSUMS).write_text("old")
    write_checksums(tmp_path)
    assert not (tmp_path / CHECKSUMS).exists()
    check_checksums(tmp_path)


def test_cached_files_of_a_hub_repository_are_checked(folder, monkeypatch):
    monkeypatch.setattr(
        "gemma_lisa.checkpoints.loading.hf_hub_download", lambda name, file, revision: str(folder / file)
    )
    one, other = sorted(folder.glob("*.safetensors"))[:2]
    one.unlink()
    check_hub_checksums("org/name", None)
    flip(other, -1)
    with pytest.raises(ValueError, match="damaged or was replaced"):
        check_hub_checksums("org/name", None)


def test_a_hub_repository_without_checksums_is_not_checked():
    check_hub_checksums("org/never-downloaded", None)
