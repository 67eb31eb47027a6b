"""The small model that starts at random: the same seed gives the same, and no trained one is overwritten."""

import pytest
import torch

from gemma_lisa.scripts import init_tiny


def test_a_folder_that_is_not_empty_is_written_to_only_with_overwrite(tmp_path, monkeypatch, tiny):
    monkeypatch.setattr(init_tiny, "build_tiny", lambda *_, **__: tiny)
    (tmp_path / "model").mkdir()
    trained = tmp_path / "model" / "model.safetensors"
    trained.write_bytes(b"trained")
    arguments = ["--output", str(tmp_path / "model")]
    with pytest.raises(ValueError, match="the folder is not empty"):
        init_tiny.main(arguments)
    assert trained.read_bytes() == b"trained"
    init_tiny.main([*arguments, "--overwrite"])
    assert trained.read_bytes() != b"trained"


def test_the_seed_fixes_every_weight(tiny):
    again, other = (init_tiny.build_tiny(image_size=64, seed=seed)[0] for seed in (0, 1))
    expected = tiny[0].state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in again.state_dict().items())
    assert not torch.equal(other.seg_projector[0].weight, again.seg_projector[0].weight)


def test_every_text_can_be_written_and_the_words_of_the_drawings_are_single_tokens(tiny):
    tokenizer = tiny[1].tokenizer
    for text in ("the red circle", "Ünïcode 図形 \U0001f535", "a\n\nb"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    for word in (" red", " circle", " triangles", "[SEG]", "<end_of_turn>", "\n\n"):
        assert len(tokenizer(word, add_special_tokens=False).input_ids) == 1, word


def test_the_image_size_decides_the_number_of_image_tokens():
    for image_size, tokens in ((32, 4), (128, 64)):
        processor = init_tiny.build_processor(image_size)
        config = init_tiny.build_config(processor, image_size, seg_state="previous")
        assert processor.image_seq_length == config.mm_tokens_per_image == tokens
        assert config.vision_config.image_size == image_size and config.seg_state == "previous"
        assert config.sam_config.vision_config.image_size == image_size and config.base_models == []
