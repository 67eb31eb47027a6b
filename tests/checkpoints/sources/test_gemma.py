"""The tokens and stop tokens of Gemma 3 are checked before its weights are loaded."""

import pytest
import torch
from stock_checkpoints import IMAGE_TOKENS, edit_weights, stock_tokenizer
from transformers import Gemma3Config, GenerationConfig

from gemma_lisa.checkpoints.sources.gemma import check_tokens, generation_config_of, read_gemma
from gemma_lisa.checkpoints.sources.reading import read_fields
from gemma_lisa.checkpoints.sources.sam import read_sam_config
from gemma_lisa.scripts.init_checkpoint import build_config


@pytest.fixture(scope="module")
def tokenizer():
    return stock_tokenizer()


def config_of(tokenizer, **fields):
    ids = {kind: tokenizer.convert_tokens_to_ids(token) for kind, token in IMAGE_TOKENS.items()}
    fields = {f"{kind}_index": number for kind, number in ids.items()} | fields
    return Gemma3Config(text_config={"hidden_size": 8}, vision_config={"hidden_size": 8}, **fields)


def read(folder):
    return read_gemma(str(folder), read_fields(str(folder), "--gemma", ("gemma3",), "Gemma 3"))


def test_the_tokens_of_gemma_are_accepted_and_other_ids_are_an_error(tokenizer):
    check_tokens(tokenizer, config_of(tokenizer), "x")
    with pytest.raises(ValueError, match="^x: the id of <end_of_image> is 7 in the tokenizer but 77 in config.json.$"):
        check_tokens(tokenizer, config_of(tokenizer, eoi_token_index=77), "x")


def test_a_tokenizer_without_names_of_the_image_tokens_is_an_error():
    unnamed = stock_tokenizer(named=False)
    with pytest.raises(ValueError, match="^x: the tokenizer has no boi_token, eoi_token, image_token; expected"):
        check_tokens(unnamed, config_of(unnamed), "x")


@pytest.mark.parametrize(
    ("stops", "expected"), [(None, [1, 5]), (1, [1, 5]), ([1], [1, 5]), ([5, 1], [5, 1]), ([3, 1], [3, 1, 5])]
)
def test_the_end_of_a_turn_is_a_stop_token(stops, expected, tokenizer):
    assert tokenizer.convert_tokens_to_ids(["<eos>", "<end_of_turn>"]) == [1, 5]
    found = generation_config_of(lambda: GenerationConfig(eos_token_id=stops, top_k=7), tokenizer)
    assert (found.eos_token_id, found.top_k) == (expected, 7)


def test_a_missing_generation_config_is_replaced(tokenizer):
    def fail():
        raise OSError("no such file")

    for load in (None, fail):
        found = generation_config_of(load, tokenizer)
        assert (found.eos_token_id, found.pad_token_id, found.bos_token_id) == ([1, 5], 0, 2)


def test_the_source_has_the_parts_of_the_folder(gemma):
    source = read(gemma)
    assert (source.name, source.new, source.config.mm_tokens_per_image) == (str(gemma), "", 4)
    assert source.image_processor.size.height == source.config.vision_config.image_size
    assert source.generation_config.top_k == 64


def test_missing_weights_of_either_part_are_errors(copies):
    gemma, sam = copies
    source = read(gemma)
    config = build_config(source.config, read_sam_config(str(sam)), len(source.tokenizer), "token", "mlp")
    assert source.load(config, torch.float32, 0).dtype == torch.float32
    edit_weights(gemma, lambda weights: {k: v for k, v in weights.items() if "vision_tower" not in k})
    with pytest.raises(ValueError, match="weights are missing, such as model.vision_tower"):
        source.load(config, torch.float32, 0)
