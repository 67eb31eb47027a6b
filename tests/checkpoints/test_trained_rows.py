"""Trained rows without copies, compared with PEFT's layer."""

import copy

import pytest
import torch
from peft import get_peft_model_state_dict
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch.utils._python_dispatch import TorchDispatchMode

from gemma_lisa.checkpoints.lora import add_lora
from gemma_lisa.checkpoints.trained_rows import TrainedRows
from gemma_lisa.pipeline_gemma_lisa import answer


class ShapesOfResults(TorchDispatchMode):
    """Records the shapes of all new tensors."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, torch.Tensor) and not func.is_view:
                self.shapes.add(tuple(one.shape))
        return made


@pytest.fixture
def both(tiny):
    """The same adapted model with PEFT's layers and with ours. The row of [SEG] differs from the base."""
    ours = add_lora(copy.deepcopy(tiny[0]), rank=2).train()
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if "trainable_tokens_delta" in name:
                parameter.add_(torch.randn_like(parameter))
    peft = copy.deepcopy(ours)
    for module in peft.modules():
        if type(module) is TrainedRows:
            module.__class__ = TrainableTokensLayer
    return peft, ours


def test_embedding_and_tied_head_are_replaced(both):
    assert sum(type(module) is TrainedRows for module in both[1].modules()) == 2


def test_losses_and_gradients_are_equal(both, batch):
    results = []
    for model in both:
        output = model(**batch)
        output.loss.backward()
        results.append((output, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (expected, expected_grads), (found, found_grads) = results
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.pred_masks, expected.pred_masks, rtol=1e-5, atol=1e-5)
    assert found_grads.keys() == expected_grads.keys()
    for name, gradient in expected_grads.items():
        torch.testing.assert_close(found_grads[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_weights_and_files_are_those_of_peft(both):
    one, other = (get_peft_model_state_dict(model, save_embedding_layers=False) for model in both)
    assert one.keys() == other.keys()


def test_switched_off_adapters_and_merging_work(both, batch):
    peft, ours = both
    with torch.no_grad():
        with peft.disable_adapter(), ours.disable_adapter():
            torch.testing.assert_close(ours(**batch).logits, peft(**batch).logits)
        one, other = (model.merge_and_unload()(**batch).logits for model in both)
    torch.testing.assert_close(other, one)


def test_training_never_copies_the_embedding_matrix(both, batch):
    config = both[1].get_base_model().config.text_config
    matrix = (config.vocab_size, config.hidden_size)
    seen = []
    for model in both:
        with ShapesOfResults() as results:
            model(**batch).loss.backward()
        seen.append(matrix in results.shapes)
    assert seen == [True, False]  # PEFT's layers do


def test_generation_never_copies_the_embedding_matrix(both, tiny, make_picture):
    model = both[1].eval().get_base_model()
    matrix = (model.config.text_config.vocab_size, model.config.text_config.hidden_size)
    with ShapesOfResults() as results:
        answer(model, tiny[1], [{"text": "the circle", "image": make_picture(64, 64, 0)}], max_new_tokens=4)
        model.start(make_picture(64, 64, 0), tiny[1]).ask("the circle", max_new_tokens=4)
    assert matrix not in results.shapes
