"""The encoders of a model: their stores, their precision, and their state before and after encoding."""

import copy

import pytest
import torch
from feature_cached import BOTH, cache_of, photo

from gemma_lisa.feature_cache.encoders import (
    GEMMA,
    SAM,
    encode,
    is_trained,
    modules_of,
    open_cache,
    ready_to_encode,
    runs_in_fp32,
)


@pytest.fixture
def model(small):
    return copy.deepcopy(small[0])


def folders(cache):
    return [store.folder.name for store in cache.stores]


def test_a_changed_encoder_misses_and_the_other_is_still_found(small, model, tmp_path):
    processor = small[1]
    before = folders(cache_of(tmp_path, small))
    model.sam.vision_encoder.neck.conv1.weight.data[0, 0] += 1e-6
    after = folders(open_cache(tmp_path, model, processor, BOTH))
    assert after[0] == before[0] and after[1] != before[1]
    model.model.multi_modal_projector.mm_input_projection_weight.data[0, 0] += 1
    assert folders(open_cache(tmp_path, model, processor, BOTH))[0] != before[0]


def test_weights_in_bf16_need_no_autocast_and_share_one_cache(small, model, tmp_path):
    model.bfloat16()
    assert not runs_in_fp32(model, GEMMA) and not runs_in_fp32(model, SAM)
    caches = [open_cache(tmp_path, model, small[1], BOTH, use_bf16) for use_bf16 in (False, True)]
    assert folders(caches[0]) == folders(caches[1])
    caches = [open_cache(tmp_path, small[0], small[1], BOTH, use_bf16) for use_bf16 in (False, True)]
    assert not set(folders(caches[0])) & set(folders(caches[1]))


def test_only_weights_of_the_encoder_make_it_trained(model):
    model.requires_grad_(False)
    model.lm_head.weight.requires_grad_(True)
    assert not is_trained(model, GEMMA) and not is_trained(model, SAM)
    next(model.model.multi_modal_projector.parameters()).requires_grad_(True)
    assert is_trained(model, GEMMA) and not is_trained(model, SAM)


def test_encoders_are_in_evaluation_mode_only_while_they_encode(model):
    model.train()
    with ready_to_encode(model, BOTH, torch.device("cpu")):
        assert not model.sam.vision_encoder.training and not model.model.vision_tower.training
        assert model.sam.mask_decoder.training
    assert all(module.training for encoder in BOTH for module in modules_of(model, encoder).values())


@pytest.mark.parametrize("use_bf16", [False, True])
def test_features_need_no_gradient_and_have_the_shapes_of_the_stores(small, model, tmp_path, use_bf16):
    cache = open_cache(tmp_path, model, small[1], BOTH, use_bf16)
    features = encode(model, cache, small[1].encode_images([photo(0), photo(1)]), use_bf16)
    for store in cache.stores:
        assert features[store.name].shape == (2, *store.shape) and not features[store.name].requires_grad
