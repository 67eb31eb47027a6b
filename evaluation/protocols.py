"""The two evaluation protocols: generation, as in use, and teacher forcing with the right answer, as in LISA's code.

Samples are those of `datasets_builder.questions.EvaluationQuestions`, with one question each. The id of a prediction is
empty; `running` adds it.
"""

from typing import Any

import numpy as np
import torch

from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.rows import encode_mask
from gemma_lisa.datasets_builder.templates import ENGLISH, LANGUAGES
from gemma_lisa.feature_cache.cache import FeatureCache
from gemma_lisa.images_gemma_lisa import IGNORE_VALUE
from gemma_lisa.losses_gemma_lisa import IGNORE_INDEX
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration, GemmaLisaOutput
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor

from .cached_answers import answer_batch, to_device
from .mask_arrays import intersection_and_union, unite
from .records import Prediction, Question


def question_of(sample: dict[str, Any], number: int = 0) -> Question:
    """Return a sample as the question that `judging.judge` needs. Other things of its image are unknown.

    Args:
        sample: one question with its decoded masks.
        number: of the question in its row, for its id.
    """
    [conversation], [masks], image = sample["conversations"], sample["masks"], sample["image"]
    text, expected = conversation.turns[-1]
    targets, ignore = None, None
    if masks is not None:
        targets = [encode_mask(mask == 1) for mask in masks]
        ignored = (masks == IGNORE_VALUE).any(0) if len(masks) else None
        ignore = None if ignored is None or not ignored.any() else encode_mask(ignored)
    return Question(
        id=f"{sample['source']}#{number}",
        dataset="",
        source=sample["source"],
        kind=conversation.targets[0]["kind"] if conversation.targets else None,
        text=text,
        expected=expected,
        size=None if image is None else (image.height, image.width),
        targets=targets,
        ignore=ignore,
        others=[],
    )


def by_generation(
    model: GemmaLisaForConditionalGeneration,
    processor: GemmaLisaProcessor,
    samples: list[dict[str, Any]],
    max_new_tokens: int,
    cache: FeatureCache | None = None,
) -> list[Prediction]:
    """Return generated answers. A mask exists only if the model generates its `[SEG]`.

    Args:
        model, processor: of a Gemma-LISA.
        samples: questions; they are one batch. The last turn of a conversation is asked, after the right answers to
            the turns before it.
        max_new_tokens: maximum number of tokens per answer.
        cache: features of the images; None to encode the images.
    """
    questions = []
    for sample in samples:
        *earlier, (text, _) = sample["conversations"][0].turns
        questions.append({"text": text, "image": sample["image"], "earlier": earlier})
    return [
        Prediction(
            "",
            found["masks"],
            found["scores"].tolist(),
            text=found["raw_text"],
            phrases=found["phrases"],
            complete=found["complete"],
            tokens=found["tokens"],
        )
        for found in answer_batch(model, processor, questions, max_new_tokens, cache)
    ]


@torch.no_grad()
def teacher_forced(
    model: GemmaLisaForConditionalGeneration,
    processor: GemmaLisaProcessor,
    samples: list[dict[str, Any]],
    cache: FeatureCache | None = None,
) -> list[Prediction]:
    """Return answers whose masks are decoded at the `[SEG]` tokens of the right answer; see `teacher_forced_masks`."""
    batch = GemmaLisaCollator(processor, mask_loss_size=model.config.mask_loss_size, cache=cache)(samples)
    batch.pop("sample_ids", None)
    batch = to_device(batch, model.device)
    output = model(**batch)
    return [
        Prediction("", [encode_mask(mask) for mask in masks], scores.tolist(), refused=refused)
        for masks, scores, refused in teacher_forced_masks(processor, batch, output)
    ]


@torch.no_grad()
def likelihoods(
    model: GemmaLisaForConditionalGeneration,
    processor: GemmaLisaProcessor,
    samples: list[dict[str, Any]],
    cache: FeatureCache | None = None,
) -> list[float | None]:
    """Return the mean log-likelihood per token of the right answers to VQA questions, None for questions with masks.

    The answer to the last turn of a conversation is counted, given the right answers before it. SAM is not used.

    Args:
        model, processor, samples, cache: as in `by_generation`.
    """
    asked = [at for at, sample in enumerate(samples) if sample["masks"][0] is None]
    found: list[float | None] = [None] * len(samples)
    if not asked:
        return found
    batch = GemmaLisaCollator(processor, learn_masks=False, cache=cache)([samples[at] for at in asked])
    batch.pop("sample_ids", None)
    batch = to_device(batch, model.device)
    learned = batch["labels"][:, 1:] != IGNORE_INDEX  # (B, L - 1)
    tokens = batch["labels"][:, 1:][learned]  # (N,)
    is_last = _last_runs(learned)[learned]  # (N,)
    logits = model(**batch).logits.float()  # (N, V)
    each = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)
    counts = learned.sum(1).tolist()
    for at, part, kept in zip(asked, each.split(counts), is_last.split(counts), strict=True):
        found[at] = part[kept].mean().item()
    return found


def _last_runs(learned: torch.BoolTensor) -> torch.BoolTensor:
    """Return (B, L) bool: the last run of true values of each row, which is the last answer of a conversation."""
    # 0 1 1 0 1 1 0 -> number of run starts so far: 0 1 1 1 2 2 2
    starts = learned & ~torch.nn.functional.pad(learned, (1, 0))[:, :-1]
    runs = starts.cumsum(1)
    return learned & (runs == runs[:, -1:])


def teacher_forced_counts(
    processor: GemmaLisaProcessor, batch: dict[str, Any], output: GemmaLisaOutput
) -> torch.LongTensor:
    """Return the counts of `metrics.summarize_counts` (B, 5) int64 of an evaluation batch with one question per row."""
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
