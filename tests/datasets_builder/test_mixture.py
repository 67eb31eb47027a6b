"""Samples of a data set: the same index gives the same sample, and evaluation asks each question once."""

from io import BytesIO

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader

from gemma_lisa.datasets_builder.mixture import BUILDERS, load_rows
from gemma_lisa.datasets_builder.questions import EvaluationQuestions, TrainingQuestions
from gemma_lisa.datasets_builder.rows import ROW_FEATURES, SEG_SLOT, encode_mask
from gemma_lisa.datasets_builder.synthetic.shapes import row_of_scene
from gemma_lisa.datasets_builder.synthetic.shapes_easy import draw_scene

# pycocotools calls NumPy 2 with a deprecated signature
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZE = 32
OPTIONS = {"image_size": SIZE, "train_rows": 3, "validation_rows": 2, "test_rows": 1}


@pytest.fixture(scope="module")
def rows():
    generators = [np.random.default_rng(number) for number in range(8)]
    drawn = [row_of_scene(draw_scene(g, SIZE), g, True, f"drawn/{at}") for at, g in enumerate(generators)]
    drawn[3]["targets"] = []  # only a conversation
    drawn[4]["conversation"] = []  # only targets
    drawn[5] = {**drawn[5], "image": None, "targets": []}  # text only
    return Dataset.from_list(drawn, features=ROW_FEATURES)


def plain(sample):
    """Return a sample as values that can be compared."""
    image = None if sample["image"] is None else (sample["image"].size, sample["image"].load().tobytes())
    masks = [None if masks is None else (masks.dtype.name, masks.shape, masks.tobytes()) for masks in sample["masks"]]
    return sample["source"], image, tuple(sample["conversations"]), masks


def words(questions):
    return [[conversation.turns for conversation in questions[at]["conversations"]] for at in range(len(questions))]


# --- training --------------------------------------------------------------------------------------------------------
def test_same_seed_epoch_and_index_give_the_same_sample_in_any_order(rows):
    one, other = TrainingQuestions(rows, 7, 4), TrainingQuestions(rows, 7, 4)
    for epoch in (0, 3):
        one.set_epoch(epoch)
        other.set_epoch(epoch)
        backwards = [plain(other[at]) for at in reversed(range(8))]
        assert [plain(one[at]) for at in range(8)] == backwards[::-1]


def test_another_epoch_or_seed_gives_other_phrasings(rows):
    questions = TrainingQuestions(rows, 7, 4)
    first = words(questions)
    questions.set_epoch(1)
    assert words(questions) != first
    questions.set_epoch(0)
    assert words(questions) == first
    assert words(TrainingQuestions(rows, 8, 4)) != first


@pytest.mark.parametrize("persistent", [False, True], ids=["new workers", "persistent workers"])
def test_samples_are_the_same_with_and_without_worker_processes(rows, persistent):
    expected, found = TrainingQuestions(rows, 7, 4), TrainingQuestions(rows, 7, 4)
    for workers in (1, 2):
        loader = DataLoader(
            found, batch_size=2, num_workers=workers, persistent_workers=persistent, collate_fn=list, shuffle=False
        )
        for epoch in (1, 2):
            expected.set_epoch(epoch)
            found.set_epoch(epoch)
            samples = [plain(sample) for batch in loader for sample in batch]
            assert samples == [plain(expected[at]) for at in range(8)], (workers, epoch)


def test_sample_has_one_mask_for_each_slot_of_its_answers(rows):
    questions = TrainingQuestions(rows, 0, 3)
    for epoch in range(5):
        questions.set_epoch(epoch)
        for at in range(len(questions)):
            sample = questions[at]
            assert len(sample["conversations"]) == len(sample["masks"]) <= 3 + 1
            for conversation, masks in zip(sample["conversations"], sample["masks"], strict=True):
                if not conversation.targets:
                    assert masks is None
                else:
                    assert masks.dtype == np.uint8
                    assert masks.shape == (conversation.turns[0][1].count(SEG_SLOT), SIZE, SIZE)
                    assert masks.any(axis=(1, 2)).all()


def test_targets_without_an_image_are_refused_with_the_source_of_the_row(rows):
    row = {**rows[0], "image": None}
    questions = TrainingQuestions(Dataset.from_list([row], features=ROW_FEATURES), 0, 4)
    with pytest.raises(ValueError, match=r"^drawn/0: a row without an image cannot have targets"):
        questions[0]


# --- evaluation ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("with_conversations", [False, True])
def test_evaluation_asks_each_question_exactly_once(rows, with_conversations):
    questions = EvaluationQuestions(rows, with_conversations)
    found, indices = [], []
    for at in range(len(questions)):
        sample = questions[at]
        [conversation], [_] = sample["conversations"], sample["masks"]
        found.append((sample["source"], conversation.turns[0][0]))
        indices.append(sample["index"])
    expected = [(row["source"], target["texts"][0]) for row in rows for target in row["targets"]]
    if with_conversations:
        expected += [(row["source"], row["conversation"][0]["question"]) for row in rows if row["conversation"]]
    assert sorted(found) == sorted(expected)
    assert indices == list(range(len(expected)))


def test_evaluation_masks_keep_ignored_pixels():
    thing, unclear = np.zeros((4, 5), bool), np.zeros((4, 5), bool)
    thing[0], unclear[:2] = True, True
    target = {
        "texts": ["the bar"],
        "kind": None,
        "is_sentence": False,
        "masks": [encode_mask(thing)],
        "answer": None,
        "ignore": encode_mask(unclear),
        "explanation": None,
    }
    row = {"image": None, "source": "row", "targets": [target], "conversation": []}
    questions = EvaluationQuestions(Dataset.from_list([row], features=ROW_FEATURES), False)
    with pytest.raises(ValueError, match="^row: "):
        questions[0]
    file = BytesIO()
    Image.new("RGB", (5, 4)).save(file, format="PNG")
    row["image"] = {"bytes": file.getvalue(), "path": None}
    [masks] = EvaluationQuestions(Dataset.from_list([row], features=ROW_FEATURES), False)[0]["masks"]
    assert masks.tolist() == [[[1] * 5, [255] * 5, [0] * 5, [0] * 5]]


# --- rows by name ----------------------------------------------------------------------------------------------------
def test_rows_are_loaded_by_name_and_options_and_from_the_cache_the_second_time(own_cache, monkeypatch):
    rows = load_rows("shapes/easy", "train", None, OPTIONS)
    assert rows.features == ROW_FEATURES
    assert [row["source"] for row in rows] == [f"shapes-easy/train/{at:06d}" for at in range(3)]
    monkeypatch.setattr(BUILDERS["shapes"], "_generate_examples", None)
    assert load_rows("shapes", "train", None, OPTIONS)[:] == rows[:]
    assert len(load_rows("shapes", "validation", None, OPTIONS)) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("no_such_set", "train"), ["'no_such_set'", "choose one of: ade20k"]),
        (("shapes/no_such", "train"), ["no configuration 'no_such'", "easy"]),
        (("shapes", "no_such", None, OPTIONS), ["no split 'no_such'", "train, validation, test"]),
        (("shapes", "train", None, {"colour": 3}), ["no option colour", "image_size"]),
        (("shapes", "train", "no/such/folder"), ["no/such/folder: no such folder"]),
        (("shapes", "train", None, {**OPTIONS, "train_rows": 0}), ["shapes", "'train'", "no row"]),
    ],
    ids=["name", "configuration", "split", "option", "folder", "no rows"],
)
def test_unknown_names_and_options_are_refused_with_a_list_of_those_that_exist(own_cache, arguments, words):
    with pytest.raises(ValueError) as refusal:
        load_rows(*arguments)
    message = str(refusal.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
