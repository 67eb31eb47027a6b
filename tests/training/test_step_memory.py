"""The bytes counted on the meta device match the allocations on the CPU."""

import copy

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from gemma_lisa.checkpoints.lora import add_lora
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.scripts.init_tiny import build_config
from gemma_lisa.training.step_memory import LiveBytes, count_step, make_batch

ROWS, QUESTIONS, QUESTION_TOKENS, SIZE = 2, 2, 24, (120, 160)


@pytest.fixture(scope="module")
def config(tiny):
    """A model whose language model needs most of the memory, as at real sizes."""
    config = build_config(tiny[1], image_size=64)
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_attention_heads, text.head_dim = 256, 1024, 8, 32
    text.vocab_size = 8000
    return config


def build(config, device, lora, checkpointing):
    torch.manual_seed(0)
    with torch.device(device):
        model = GemmaLisaForConditionalGeneration(copy.deepcopy(config))
        if lora:
            model = add_lora(model, rank=8)
        else:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name.startswith(("model.language_model.", "seg_projector.", "sam.mask_dec")))
    if checkpointing:
        inner = model.get_base_model() if lora else model
        inner.config.text_config.use_cache = False
        inner.activation_checkpointing_enable()
    return model.train()


def real(batch):
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(value.shape, generator=generator) if torch.is_tensor(value) and value.is_meta else value
        for name, value in batch.items()
    }


def peak_of_profile(run):
    """Return the peak of allocated bytes during `run` minus those before, from torch's allocation record."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["all kept", "checkpointed"])
def test_counted_bytes_are_within_15_percent_of_the_allocations_on_the_cpu(config, lora, checkpointing):
    batch = make_batch(config, ROWS, QUESTIONS, QUESTION_TOKENS, SIZE)
    counted = count_step(build(config, "meta", lora, checkpointing), batch)
    model = build(config, "cpu", lora, checkpointing)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    batch = real(batch)
    measured = peak_of_profile(lambda: model(**batch).loss.backward())
    planned = counted.activations + counted.logits + counted.working
    assert planned == pytest.approx(measured, rel=0.15)


def test_checkpointing_and_smaller_batches_need_less_memory_and_more_questions_more(config):
    def kept(checkpointing=False, rows=2, questions=2):
        model = build(config, "meta", lora=True, checkpointing=checkpointing)
        return count_step(model, make_batch(config, rows, questions, QUESTION_TOKENS, SIZE)).activations

    assert kept(checkpointing=True) < kept() < kept(questions=4)
    assert kept(rows=1) == pytest.approx(kept() / 2, rel=0.1)


def test_training_the_bridge_alone_keeps_no_logits_and_little_else(config):
    model = build(config, "meta", lora=False, checkpointing=False)
    batch = make_batch(config, ROWS, QUESTIONS, QUESTION_TOKENS, SIZE)
    whole = count_step(model, batch)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("seg_projector."))
    bridge = count_step(model, batch)
    assert bridge.logits == 0 < whole.logits
    assert bridge.activations < whole.activations / 2


def test_the_model_trains_on_all_masks_of_the_batch(config):
    batch = real(make_batch(config, ROWS, QUESTIONS, QUESTION_TOKENS, SIZE))
    output = build(config, "cpu", lora=False, checkpointing=False)(**batch)
    assert output.pred_masks.shape[0] == ROWS * QUESTIONS
    assert output.logits.shape[0] == ROWS * QUESTIONS * QUESTION_TOKENS // 2
    assert torch.isfinite(output.loss)


def test_live_bytes_counts_only_referenced_tensors():
    with LiveBytes() as live:
        kept = torch.empty(10, 10, device="meta")
        assert (live.now, live.peak) == (400, 400)
        kept + kept
        assert (live.now, live.peak) == (400, 800)
        assert kept.t().untyped_storage().nbytes() == 400 and live.now == 400
        del kept
        assert (live.now, live.peak) == (0, 800)
