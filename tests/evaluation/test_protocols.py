"""The two protocols: which answers count as refusals, which masks count, and IoU at the image's own size."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.datasets_builder.rows import ROW_FEATURES, decode_mask, encode_mask
from gemma_lisa.datasets_builder.synthetic.shapes import row_of_scene
from gemma_lisa.datasets_builder.synthetic.shapes_easy import draw_scene
from gemma_lisa.evaluation.judging import judge
from gemma_lisa.evaluation.protocols import by_generation, question_of, teacher_forced, teacher_forced_counts
from gemma_lisa.generation_gemma_lisa import SegmentOutput
from gemma_lisa.scripts.init_tiny import build_tiny

# pycocotools raises this warning with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIDE = 32  # pixels, of the inputs of both image encoders
HEIGHT, WIDTH = 48, 24  # of the grey picture; SAM's input shows it as 32 x 16


@pytest.fixture(scope="module")
def tiny():
    model, processor = build_tiny(image_size=SIDE)
    return model.eval(), processor


@pytest.fixture(scope="module")
def drawn():
    """Return questions about some scenes: objects, missing objects, counting, and one row without an image."""
    rows = []
    for number in range(3):
        generator = np.random.default_rng(number)
        rows.append(row_of_scene(draw_scene(generator, SIDE), generator, True, f"drawn/{number}"))
    rows[2]["targets"] = rows[2]["targets"][:1]
    rows.insert(1, {**rows[0], "source": "words", "image": None, "targets": []})
    questions = EvaluationQuestions(Dataset.from_list(rows, features=ROW_FEATURES), with_conversations=True)
    samples = [questions[at] for at in range(len(questions))]
    assert {0, 1} <= {len(sample["masks"][0]) for sample in samples if sample["masks"][0] is not None}
    return samples


def make_samples(targets=(), conversation=(), has_image=True):
    """Return samples about a HEIGHT x WIDTH picture. A target is (text, masks, ignore region or None)."""
    file = BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), "gray").save(file, format="PNG")
    row = {
        "image": {"bytes": file.getvalue(), "path": None} if has_image else None,
        "source": "test",
        "targets": [
            {
                "texts": [text],
                "kind": None,
                "is_sentence": False,
                "masks": [encode_mask(mask) for mask in masks],
                "answer": None,
                "ignore": None if ignore is None else encode_mask(ignore),
                "explanation": None,
            }
            for text, masks, ignore in targets
        ],
        "conversation": [{"question": question, "answer": answer} for question, answer in conversation],
    }
    questions = EvaluationQuestions(Dataset.from_list([row], features=ROW_FEATURES), with_conversations=True)
    return [questions[at] for at in range(len(questions))]


def box(top, left, bottom, right, size=(HEIGHT, WIDTH)):
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def nearly_equal(masks, others):
    """Return whether masks are equal, except for pixels whose logit is zero up to rounding."""
    return masks.shape == others.shape and (masks != others).sum() <= 0.01 * masks.size


def masks_of(prediction):
    """Return the masks of a prediction, (K, H, W) bool."""
    return np.array([decode_mask(mask, "") == 1 for mask in prediction.masks])


def judged_of(sample, prediction):
    """Return the prediction compared with the right answer of its sample."""
    question = question_of(sample)
    return judge(question, replace(prediction, id=question.id))


class FixedModel:
    """A model that gives fixed answers and fixed masks (bool, in SAM's square)."""

    device = torch.device("cpu")

    def __init__(self, processor, answers, squares=(), ended=True):
        self.processor, self.answers, self.squares, self.ended = processor, answers, squares, ended

    def segment(self, input_ids, max_new_tokens, sam_pixel_values=None, **inputs):
        tokenizer = self.processor.tokenizer
        assert sam_pixel_values is None or set(inputs) >= {"original_sizes", "reshaped_input_sizes", "pixel_values"}
        end = [tokenizer.convert_tokens_to_ids("<end_of_turn>")] * self.ended
        answers = [tokenizer(answer, add_special_tokens=False)["input_ids"] + end for answer in self.answers]
        length = max(map(len, answers))
        new = torch.tensor([ids + [tokenizer.pad_token_id] * (length - len(ids)) for ids in answers])
        sequences = torch.cat([input_ids, new], dim=1)
        if sam_pixel_values is None:
            return SegmentOutput(sequences=sequences)
        has_image = (input_ids == tokenizer.image_token_id).any(1)
        count = ((new == self.processor.seg_token_id) & has_image[:, None]).sum(1)
        assert count.sum() == len(self.squares)
        logits = [torch.where(torch.as_tensor(square), 5.0, -5.0) for square in self.squares]
        return SegmentOutput(
            sequences=sequences,
            pred_masks=torch.stack(logits) if logits else torch.zeros(0, SIDE, SIDE),
            iou_scores=torch.linspace(0.5, 0.9, len(logits)),
            seg_image_index=(has_image.long().cumsum(0) - 1).repeat_interleave(count),
        )


def force_token(model, token):
    """Make the model predict `token` at every position."""

    def forced(module, inputs, output):
        logits = torch.zeros_like(output)
        logits[..., token] = 1.0
        return logits

    return model.lm_head.register_forward_hook(forced)


def force_answer(model, tokens):
    """Make the model generate these tokens, and then repeat the last one."""
    left = list(tokens)

    def forced(module, inputs, output):
        logits = torch.zeros_like(output)
        logits[..., left.pop(0) if len(left) > 1 else left[0]] = 1.0
        return logits

    return model.lm_head.register_forward_hook(forced)


# --- teacher forcing -------------------------------------------------------------------------------------------
def test_teacher_forced_answers_are_consistent_and_do_not_depend_on_the_batch(tiny, drawn):
    answers = teacher_forced(*tiny, drawn)
    assert len(answers) == len(drawn)
    ious = []
    for sample, answer in zip(drawn, answers, strict=True):
        alone = teacher_forced(*tiny, [sample])[0]
        assert answer.text is None and answer.complete and answer.refused == alone.refused
        if sample["masks"][0] is None:
            assert answer.masks == []
            continue
        target, masks = sample["masks"][0], masks_of(answer)
        assert len(masks) == len(target) == len(answer.scores)
        assert np.allclose(answer.scores, alone.scores, atol=1e-5)
        if len(target):
            assert nearly_equal(masks, masks_of(alone))
            judged, united, wanted = judged_of(sample, answer), masks.any(0), (target == 1).any(0)
            assert (judged.intersection, judged.union) == ((united & wanted).sum(), (united | wanted).sum())
            ious.append(judged.iou)
    assert any(0 < iou < 1 for iou in ious)


@torch.no_grad()
def test_the_counts_of_a_batch_equal_those_of_its_answers(tiny, drawn):
    model, processor = tiny
    batch = GemmaLisaCollator(processor)(drawn)
    batch.pop("sample_ids")
    no, it = (processor.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("No", "It"))
    for token in (no, it):
        hook = force_token(model, token)
        try:
            counts = teacher_forced_counts(processor, batch, model(**batch)).tolist()
            answers = teacher_forced(model, processor, drawn)
        finally:
            hook.remove()
        assert len(counts) == len(answers)
        for numbers, sample, answer in zip(counts, drawn, answers, strict=True):
            if sample["masks"][0] is None:
                continue
            judged, num_targets = judged_of(sample, answer), len(sample["masks"][0])
            num_predictions = 0 if answer.refused else max(1, num_targets)
            assert numbers == [judged.intersection, judged.union, num_targets, num_predictions, 1]


def test_an_answer_is_a_refusal_only_if_its_first_word_is_no(tiny, drawn):
    model, processor = tiny
    no, it = (processor.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("No", "It"))
    for token, refuses in ((no, True), (it, False)):
        hook = force_token(model, token)
        try:
            answers = teacher_forced(model, processor, drawn)
        finally:
            hook.remove()
        assert [answer.refused for answer in answers] == [refuses] * len(drawn)


def test_the_first_word_is_read_from_each_row(tiny, drawn):
    """Only one row of the batch refuses, at the position that predicts the first token of its answer."""
    model, processor = tiny
    samples = [sample for sample in drawn if sample["masks"][0] is not None]
    no, it = (processor.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("No", "It"))
    learned = (GemmaLisaCollator(processor)(samples)["labels"][:, 1:] != -100).sum(1).tolist()
    for row in range(len(samples)):

        def forced(module, inputs, output, row=row):
            logits = torch.zeros_like(output)
            logits[:, it] = 1.0
            logits[sum(learned[:row]), no] = 2.0
            return logits

        hook = model.lm_head.register_forward_hook(forced)
        try:
            answers = teacher_forced(model, processor, samples)
        finally:
            hook.remove()
        assert [at for at, answer in enumerate(answers) if answer.refused] == [row]


# --- by generation ---------------------------------------------------------------------------------------------------
def test_generated_answers_are_consistent_and_do_not_depend_on_the_batch(tiny, drawn):
    answers = by_generation(*tiny, drawn, max_new_tokens=4)
    for sample, answer in zip(drawn, answers, strict=True):
        alone = by_generation(*tiny, [sample], max_new_tokens=4)[0]
        assert (answer.text, answer.tokens) == (alone.text, alone.tokens)
        assert 1 <= answer.tokens <= 4 and answer.refused is None
        assert nearly_equal(masks_of(answer), masks_of(alone))
        if sample["image"] is not None:
            assert len(answer.masks) == len(answer.scores) == answer.text.count("[SEG]") == len(answer.phrases)


@pytest.mark.parametrize(
    ("words", "num_predictions", "complete", "tokens"),
    [
        (["[SEG]", "<end_of_turn>"], 1, True, 2),
        (["[SEG]", "[SEG]", "<end_of_turn>"], 2, True, 3),
        (["No", "<end_of_turn>"], 0, True, 2),
        (["<end_of_turn>"], 0, True, 1),
        (["the"], 0, False, 5),  # continues until it is cut off
        (["the", "the", "the", "[SEG]"], 2, False, 5),  # the last token is a [SEG] without a computed hidden state
    ],
    ids=["one mask", "two masks", "refusal", "empty answer", "cut off", "cut off at a mask"],
)
def test_predictions_and_completeness_are_those_of_the_generated_tokens(tiny, words, num_predictions, complete, tokens):
    model, processor = tiny
    [sample] = make_samples([("the box", [box(0, 0, 24, 24)], None)])
    hook = force_answer(model, [processor.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words])
    try:
        [answer] = by_generation(model, processor, [sample], max_new_tokens=5)
    finally:
        hook.remove()
    assert (len(answer.masks), answer.complete, answer.tokens) == (num_predictions, complete, tokens)
    assert all(mask["size"] == [HEIGHT, WIDTH] for mask in answer.masks)
    assert len(answer.scores) == answer.text.count("[SEG]") == num_predictions
    if num_predictions == 0:
        judged = judged_of(sample, answer)
        assert (judged.intersection, judged.union) == (0, 24 * 24)


def test_iou_is_computed_at_the_original_size(tiny):
    _, processor = tiny
    [sample] = make_samples([("the box", [box(0, 0, 24, 24)], None)])  # the upper half
    # The image fills the left half of SAM's square. Its own left half is 48 x 12 pixels
    fixed = FixedModel(processor, ["It is [SEG]."], [box(0, 0, 32, 8, (SIDE, SIDE))])
    [answer] = by_generation(fixed, processor, [sample], 8)
    assert np.array_equal(masks_of(answer)[0], box(0, 0, 48, 12))
    judged = judged_of(sample, answer)
    assert (judged.intersection, judged.union) == (24 * 12, 24 * 24 + 24 * 12)
    assert judged.iou == pytest.approx(1 / 3)


def test_several_masks_count_as_their_union_and_ignored_pixels_do_not_count(tiny):
    _, processor = tiny
    targets = [box(0, 0, 12, 24), box(12, 0, 24, 24)]
    [sample] = make_samples([("both", targets, box(36, 0, 48, 24))])  # the lower quarter is an ignore region
    left, right = box(0, 0, 32, 8, (SIDE, SIDE)), box(0, 8, 32, 16, (SIDE, SIDE))
    fixed = FixedModel(processor, ["They are [SEG] and [SEG]."], [left, right])
    [answer] = by_generation(fixed, processor, [sample], 8)
    judged = judged_of(sample, answer)
    assert (judged.intersection, judged.union) == (24 * 24, 36 * 24)
    assert (len(judged.question.targets), len(answer.masks)) == (2, 2)


def test_every_image_of_a_batch_gets_its_own_masks(tiny):
    _, processor = tiny
    upper, [words], lower = (
        make_samples([("above", [box(0, 0, 24, 24)], None)]),
        make_samples(conversation=[("How many?", "2.")], has_image=False),
        make_samples([("below", [box(24, 0, 48, 24)], None), ("nothing", [], None)]),
    )
    squares = [box(0, 0, 16, 16, (SIDE, SIDE)), box(16, 0, 32, 16, (SIDE, SIDE))]
    fixed = FixedModel(processor, ["[SEG]", "[SEG] 2", "[SEG]", "No."], squares)
    samples = [*upper, words, *lower]
    answers = by_generation(fixed, processor, samples, 8)
    judged = [judged_of(*pair) for pair in zip(samples, answers, strict=True)]
    assert [one.iou for at, one in enumerate(judged) if at != 1] == [1.0, 1.0, 1.0]
    assert [len(answer.masks) for answer in answers] == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("text", "is_right"),
    [("2 cups.", True), ("2  Cups", True), ("3 cups.", False), ("2 cups, I think.", False), ("", False)],
)
@pytest.mark.parametrize("has_image", [True, False])
def test_a_vqa_answer_is_right_if_it_equals_the_expected_answer(tiny, text, is_right, has_image):
    _, processor = tiny
    [sample] = make_samples(conversation=[("How many?", "2 cups.")], has_image=has_image)
    [answer] = by_generation(FixedModel(processor, [text]), processor, [sample], 8)
    assert answer.masks == []
    assert judged_of(sample, answer).is_right == is_right
