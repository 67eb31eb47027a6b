"""Adapters record their base model: another base is an error, and a moved base can be given."""

import json
import shutil

import pytest
import torch
from transformers.utils import CONFIG_NAME

from gemma_lisa.checkpoints import adapter_base
from gemma_lisa.checkpoints.adapter_base import (
    Base,
    check_base,
    find_base,
    fingerprint,
    identify,
    is_adapter,
    read_base,
    relative_to,
    write_base,
)
from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.checkpoints.lora import add_lora
from gemma_lisa.scripts.init_tiny import build_tiny
from gemma_lisa.training.arguments import ModelArguments
from gemma_lisa.training.load_model import load_model


@pytest.fixture
def base(tmp_path):
    """A folder with a small random Gemma-LISA."""
    return saved(tmp_path / "base")


@pytest.fixture
def adapter(base, tmp_path):
    """A folder with an adapter of `base`."""
    model, processor = load_checkpoint(base)
    adapted = add_lora(model, rank=2, base=identify(base))
    adapted.save_pretrained(tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def saved(folder, seed=0, **options):
    model, processor = build_tiny(image_size=32, seed=seed)
    model.save_pretrained(folder, **options)
    processor.save_pretrained(folder)
    return folder


def test_an_adapter_records_its_base(base, adapter):
    assert read_base(adapter) == Base(str(base.resolve()), None, fingerprint(base))
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    assert is_adapter(adapter) and not is_adapter(base)
    load_checkpoint(adapter)


def test_another_base_is_an_error_of_one_line(adapter, tmp_path):
    other = saved(tmp_path / "other", seed=1)
    for call in (
        lambda: load_checkpoint(other, adapter=adapter),
        lambda: load_model(ModelArguments(str(other), adapter=str(adapter))),
    ):
        with pytest.raises(
            ValueError, match=r"this adapter was trained on .*base \(weights .*\), not on .*other"
        ) as refusal:
            call()
        assert "\n" not in str(refusal.value)


def test_long_values_of_a_record_are_shortened_in_the_error(adapter, base):
    record = {"name": "x" * 10**5, "revision": "y" * 10**5, "fingerprint": 3}
    (adapter / "base.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="this adapter was trained on xxx") as refusal:
        check_base(adapter, identify(base))
    assert len(str(refusal.value)) < 1000 + 2 * len(str(adapter)) + len(str(base))


def test_changed_weights_are_another_base(base, adapter):
    model, _ = load_checkpoint(base)
    with torch.no_grad():
        model.seg_projector[2].bias[0] += 1
    model.save_pretrained(base)
    with pytest.raises(ValueError, match="not on"):
        load_checkpoint(adapter)


def test_a_moved_base_is_named_in_the_error_and_can_be_given(base, adapter, tmp_path):
    expected = load_checkpoint(adapter)[0].state_dict()
    shutil.move(base, tmp_path / "moved")
    with pytest.raises(ValueError, match=r"base, does not exist any more. .*--model BASE --adapter"):
        load_checkpoint(adapter)
    found = load_checkpoint(tmp_path / "moved", adapter=adapter)[0].state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    model, _ = load_model(ModelArguments(str(tmp_path / "moved"), adapter=str(adapter)))
    assert model.base.name == str((tmp_path / "moved").resolve())


def test_a_folder_without_an_adapter_is_an_error(base):
    with pytest.raises(ValueError, match="not an adapter, because it has no adapter_config.json"):
        load_checkpoint(base, adapter=base)


def test_the_fingerprint_depends_on_every_tensor_but_not_on_the_shards(base, tmp_path):
    cut = saved(tmp_path / "cut", max_shard_size="500KB")
    assert len(list(cut.glob("*.safetensors"))) > 3
    assert fingerprint(cut) == fingerprint(base)
    model, _ = load_checkpoint(base)
    seen = {fingerprint(base)}
    for name in ("lm_head", "sam.mask_decoder.iou_token", "model.vision_tower.embeddings.position_embedding"):
        weight = model.get_submodule(name).weight.data
        weight[0, 0] += 1
        model.save_pretrained(tmp_path / "changed")
        seen.add(fingerprint(tmp_path / "changed"))
    assert len(seen) == 4


def test_a_folder_without_safetensors_has_no_fingerprint(tmp_path):
    with pytest.raises(ValueError, match="no .safetensors file"):
        fingerprint(tmp_path)


def test_a_base_on_the_hub_is_identified_by_name_and_commit(base, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--org--base" / "snapshots" / commit
    shutil.copytree(base, snapshot)
    monkeypatch.setattr(adapter_base, "cached_file", lambda name, file, revision: str(snapshot / CONFIG_NAME))
    assert identify("org/base") == Base("org/base", commit, fingerprint(base))


def test_an_unreadable_record_is_named_in_the_error(adapter):
    other = '"revision": null, "fingerprint": "x"}'
    for content in ("{", '{"name": "a"}', '{"name": 3, ' + other, '{"name": "../\\u0000", ' + other):
        (adapter / "base.json").write_text(content)
        with pytest.raises(
            ValueError, match=r"base.json: cannot be read \(.*\); expected name, revision and fingerprint"
        ):
            load_checkpoint(adapter)


# ---------------------------------------------------------------------------------------------------------------------
# A base model by a path relative to the adapter
# ---------------------------------------------------------------------------------------------------------------------
def test_a_relative_base_is_found_from_every_folder_and_after_a_move(base, adapter, tmp_path, monkeypatch):
    expected = load_checkpoint(adapter)[0].state_dict()
    write_base(adapter, relative_to(adapter, identify(base), "make base"))
    record = json.loads((adapter / "base.json").read_text())
    assert record == {"name": "../base", "revision": None, "fingerprint": fingerprint(base), "made_by": "make base"}
    (tmp_path / "moved").mkdir()
    for folder in (base, adapter):
        shutil.move(folder, tmp_path / "moved")
    moved = tmp_path / "moved" / "adapter"
    monkeypatch.chdir(moved)
    for name in (moved, "../adapter", "."):
        assert read_base(name).name == str((tmp_path / "moved" / "base").resolve())
        found = load_checkpoint(name)[0].state_dict()
        assert all(torch.equal(found[key], weight) for key, weight in expected.items())


def test_a_base_below_the_adapter_is_relative_and_a_hub_name_is_not(adapter, base):
    assert relative_to(base.parent, identify(base)).name == "./base"
    assert relative_to(adapter, Base("org/base", "0" * 40, "x")) == Base("org/base", "0" * 40, "x")


def test_training_from_a_relative_base_records_an_absolute_one(adapter, base, tmp_path):
    write_base(adapter, relative_to(adapter, identify(base), "make base"))
    model, _ = load_model(ModelArguments(str(adapter)))
    model.save_pretrained(tmp_path / "further")
    content = json.loads((tmp_path / "further" / "base.json").read_text())
    assert content == {"name": str(base.resolve()), "revision": None, "fingerprint": fingerprint(base)}


def test_a_missing_base_is_an_error_with_the_command_that_makes_it(adapter, base):
    write_base(adapter, relative_to(adapter, identify(base), "make base"))
    shutil.rmtree(base)
    message = f"The base model of {adapter} is not at {base.resolve()}; make it with `make base`."
    for call in (
        lambda: load_checkpoint(adapter),
        lambda: load_model(ModelArguments(str(adapter))),
        lambda: find_base(adapter),
    ):
        with pytest.raises(ValueError) as refusal:
            call()
        assert str(refusal.value) == message


def test_another_relative_base_is_an_error(adapter, base, tmp_path):
    write_base(adapter, relative_to(adapter, identify(base), "make base"))
    shutil.rmtree(base)
    saved(base, seed=1)
    with pytest.raises(ValueError, match=r"this adapter was trained on .*base \(weights .*\), not on .*base \(weights"):
        load_checkpoint(adapter)


def test_texts_of_the_record_cannot_forge_lines_of_the_error(adapter):
    forged = "\x1b[2J\nerror: all is well\u202e" + "x" * 10**5
    for record in (Base("../none" + forged, None, "x", "make base" + forged), Base("/none" + forged, None, "x")):
        write_base(adapter, record)
        with pytest.raises(ValueError) as refusal:
            load_checkpoint(adapter)
        text = str(refusal.value)
        assert text.replace(" ", "").isprintable() and len(text) < 600 + 2 * len(str(adapter))
