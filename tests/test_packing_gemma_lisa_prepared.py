"""`Prepared` stays complete when a batch is moved, sliced, pinned or pickled."""

import pickle

import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import DataLoaderDispatcher
from accelerate.utils import concatenate, send_to_device, slice_tensors
from torch.distributed.utils import _recursive_to
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data._utils.pin_memory import pin_memory

from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.packing_gemma_lisa import Prepared

POSITIONS = ("learned_positions", "seg_positions", "image_positions")
TENSORS = (*POSITIONS, "mask_targets", "mask_sizes")


class Stream(IterableDataset):
    def __init__(self, samples):
        self.samples = samples

    def __iter__(self):
        return iter(self.samples)


@pytest.fixture
def samples_of(make_sample):
    return {
        "text": [make_sample(["Two."], with_image=False), make_sample(["A star."], with_image=False)],
        "images": [make_sample(["It is {seg}.", "{seg} and {seg}."]), make_sample(["No."], seed=1)],
    }


@pytest.fixture
def prepared(tiny, samples_of):
    return GemmaLisaCollator(tiny[1])(samples_of["images"])["prepared"]


def assert_equal(found, expected):
    assert isinstance(found, Prepared) and found.shape == expected.shape
    for name in TENSORS:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert found.mask_loss_size == expected.mask_loss_size


@pytest.mark.parametrize("kind", ["text", "images"])
def test_batch_dispatched_by_accelerate_has_the_same_loss(tiny, samples_of, kind):
    model, processor = tiny
    collate, samples = GemmaLisaCollator(processor), samples_of[kind]
    loader = Accelerator(cpu=True).prepare(DataLoader(Stream(samples), batch_size=2, collate_fn=collate))
    assert isinstance(loader, DataLoaderDispatcher)
    (batch,) = loader
    with torch.no_grad():
        found, expected = model(**batch), model(**collate(samples))
    assert torch.equal(found.loss, expected.loss) and torch.equal(found.logits, expected.logits)


def test_slicing_by_rows_does_not_change_prepared(prepared):
    batch = {"input_ids": torch.zeros(2, 3), "prepared": prepared}
    sliced = slice_tensors(batch, slice(0, 1))
    assert len(sliced["input_ids"]) == 1 and sliced["prepared"] is prepared


def test_concatenating_batches_is_an_error(prepared):
    """Accelerate concatenates batches if it dispatches them to several processes."""
    with pytest.raises(TypeError, match="Can only concatenate tensors"):
        concatenate([{"prepared": prepared}] * 2)


def test_accelerate_moves_prepared_to_the_device(prepared):
    sent = send_to_device({"prepared": prepared}, torch.device("meta"), non_blocking=True)["prepared"]
    assert all(getattr(sent, name).is_meta for name in TENSORS)
    assert sent.shape == prepared.shape and not prepared.learned_positions.is_meta


def test_masks_for_metrics_stay_on_the_cpu(tiny, rows):
    questions = EvaluationQuestions(rows, with_conversations=False)
    prepared = GemmaLisaCollator(tiny[1])([questions[0], questions[1]])["prepared"]
    sent = prepared.to("meta")
    assert sent.mask_targets.is_meta and not any(masks.is_meta for masks in sent.full_masks)


def test_data_loader_pins_its_tensors(prepared, monkeypatch):
    pinned = []

    def watched(tensor, *_):
        pinned.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", watched)
    found = pin_memory({"prepared": prepared})["prepared"]
    assert_equal(found, prepared)
    assert {id(tensor) for tensor in pinned} == {id(getattr(prepared, name)) for name in TENSORS}


def test_prepared_is_unchanged_by_pickling_and_workers(tiny, samples_of, prepared):
    assert_equal(pickle.loads(pickle.dumps(prepared)), prepared)
    loader = DataLoader(samples_of["images"], batch_size=2, collate_fn=GemmaLisaCollator(tiny[1]), num_workers=1)
    (batch,) = loader
    assert_equal(batch["prepared"], prepared)


def test_ddp_and_fsdp2_pass_prepared_on(prepared):
    """DDP moves arguments with `_recursive_to`, and FSDP2 casts the tensors among the leaves of a tree."""
    (moved,) = _recursive_to({"prepared": prepared}, torch.device("cpu"), False)
    assert moved["prepared"] is prepared
    assert tree_leaves({"prepared": prepared}) == [prepared]


@torch.no_grad()
def test_model_accepts_an_evaluation_batch_without_sample_ids(tiny, rows):
    model, processor = tiny
    questions = EvaluationQuestions(rows, with_conversations=False)
    samples = [questions[0], questions[1]]
    batch = GemmaLisaCollator(processor)(samples)
    assert batch.pop("sample_ids").tolist() == [0, 1] and batch["prepared"].full_masks
    learned = [{name: value for name, value in sample.items() if name != "index"} for sample in samples]
    assert torch.equal(model(**batch).loss, model(**GemmaLisaCollator(processor)(learned)).loss)
