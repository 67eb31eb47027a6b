"""The two evaluation protocols: generation, as in use, and teacher forcing with the right answer, as in LISA's code.

Samples are those of `datasets_builder.questions.EvaluationQuestions`, with one question each.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.rows import SEG_SLOT
from gemma_lisa.datasets_builder.templates import ENGLISH, LANGUAGES
from gemma_lisa.feature_cache.cache import FeatureCache
from gemma_lisa.losses_gemma_lisa import IGNORE_INDEX
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration, GemmaLisaOutput
from gemma_lisa.pipeline_gemma_lisa import answer
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor

from .cached_answers import answer_with_cache, to_device
from .metrics import QueryResult, intersection_and_union, unite


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Args:
        source, question: row of the data set, and the question.
        kind: kind of the question, if the row has one.
        expected: right answer, with `{seg}` for each mask.
        raw_text: generated answer with `[SEG]`; empty under teacher forcing.
        masks: (K, H, W) bool, predicted.
        scores: (K,) SAM's estimate of each mask's IoU.
        target: (M, H, W) uint8 of 0, 1, 255; None for a VQA question.
        result: counts for the scores; None for a VQA question.
    """

    source: str
    question: str
    kind: str | None
    expected: str
    raw_text: str
    masks: np.ndarray
    scores: np.ndarray
    target: np.ndarray | None
    result: QueryResult | None

    @property
    def is_right(self) -> bool:
        """Return whether a VQA answer equals the expected one, except for case, spaces and the full stop."""
        return _plain(self.raw_text) == _plain(self.expected)


def by_generation(
    model: GemmaLisaForConditionalGeneration,
    processor: GemmaLisaProcessor,
    samples: list[dict[str, Any]],
    max_new_tokens: int,
    cache: FeatureCache | None = None,
) -> list[Answer]:
    """Return generated answers. A mask exists only if the model generates its `[SEG]`.

    Args:
        model, processor: of a Gemma-LISA.
        samples: questions; they are one batch.
        max_new_tokens: maximum number of tokens per answer.
        cache: features of the images; None to encode the images.
    """
    questions = [{"text": sample["conversations"][0].turns[0][0], "image": sample["image"]} for sample in samples]
    if cache is None:
        generated = answer(model, processor, questions, max_new_tokens)
    else:
        generated = answer_with_cache(model, processor, questions, max_new_tokens, cache)
    return [
        _answer(sample, found["raw_text"], found["masks"].numpy(), found["scores"].numpy(), found["complete"])
        for sample, found in zip(samples, generated, strict=True)
    ]


@torch.no_grad()
def teacher_forced(
    model: GemmaLisaForConditionalGeneration,
    processor: GemmaLisaProcessor,
    samples: list[dict[str, Any]],
    cache: FeatureCache | None = None,
) -> list[Answer]:
    """Return answers whose masks are decoded at the `[SEG]` tokens of the right answer; see `teacher_forced_masks`."""
    batch = GemmaLisaCollator(processor, mask_loss_size=model.config.mask_loss_size, cache=cache)(samples)
    batch.pop("sample_ids", None)
    batch = to_device(batch, model.device)
    output = model(**batch)
    predicted = teacher_forced_masks(processor, batch, output)
    answers = []
    for sample, (masks, scores, refused) in zip(samples, predicted, strict=True):
        given = _answer(sample, "", masks, scores, complete=True)
        answers.append(given if given.result is None else _judge(given, refused))
    return answers


def teacher_forced_counts(
    processor: GemmaLisaProcessor, batch: dict[str, Any], output: GemmaLisaOutput
) -> torch.LongTensor:
    """Return `QueryResult.numbers` (B, 5) int64 of an evaluation batch with one question per row."""
    counts, images = [], processor.image_of_each_row(batch["input_ids"])
    for image, (masks, _, refused) in zip(images, teacher_forced_masks(processor, batch, output), strict=True):
        target = np.zeros((0, 1, 1), np.uint8) if image is None else batch["prepared"].full_masks[image].numpy()
        intersection, union = intersection_and_union(unite(masks, target.shape[1:]), unite(target, target.shape[1:]))
        counts.append([intersection, union, len(target), 0 if refused else max(1, len(target)), 1])
    return torch.tensor(counts)


def teacher_forced_masks(
    processor: GemmaLisaProcessor, batch: dict[str, Any], output: GemmaLisaOutput
) -> list[tuple[np.ndarray, np.ndarray, bool]]:
    """Return for each row: masks (K, H, W) bool at the image's size, scores (K,), and whether the model would refuse.

    The answer is given, so a refusal is read from the model's own first token: only refusals begin with "No"
    (`templates`). If the right answer is a refusal, it has no `[SEG]` and no mask. Only N-acc measures these rows.
    """
    learned = batch["labels"][:, 1:] != IGNORE_INDEX
    counts = learned.sum(1)
    first = counts.cumsum(0) - counts  # (B,): index of each row's first logits among the N
    first_tokens = output.logits[first.clamp(max=len(output.logits) - 1)].argmax(-1)  # (B,)
    refusal = processor.tokenizer(LANGUAGES[ENGLISH].refusal, add_special_tokens=False)["input_ids"][0]
    refused = (first_tokens == refusal).tolist()
    predicted = []
    for row, image in enumerate(processor.image_of_each_row(batch["input_ids"])):
        masks, scores = np.zeros((0, 1, 1), dtype=bool), np.zeros(0)
        if image is not None:
            mine = output.seg_image_index == image
            masks = processor.threshold_masks(
                output.pred_masks[mine],
                batch["original_sizes"][image].tolist(),
                batch["reshaped_input_sizes"][image].tolist(),
            ).numpy()
            scores = output.iou_scores[mine].float().cpu().numpy()
        predicted.append((masks, scores, refused[row]))
    return predicted


def _answer(sample: dict[str, Any], raw_text: str, masks: np.ndarray, scores: np.ndarray, complete: bool) -> Answer:
    question, expected = sample["conversations"][0].turns[0]
    target, result = sample["masks"][0], None
    kind = sample["conversations"][0].targets[0]["kind"] if sample["conversations"][0].targets else None
    if target is not None:
        size = (sample["image"].height, sample["image"].width)
        intersection, union = intersection_and_union(unite(masks, size), unite(target, size))
        result = QueryResult(sample["source"], question, intersection, union, len(target), len(masks), complete)
    return Answer(sample["source"], question, kind, expected, raw_text, masks, scores, target, result)


def _judge(answer: Answer, refused: bool) -> Answer:
    result = answer.result
    num_predictions = 0 if refused else max(1, result.num_targets)
    return Answer(**{**vars(answer), "result": QueryResult(**{**vars(result), "num_predictions": num_predictions})})


def _plain(text: str) -> str:
    return " ".join(text.replace(SEG_SLOT, "").lower().rstrip(". ").split())
