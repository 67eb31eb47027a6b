"""GemmaLisaCollator: samples to a batch.

A sample (see `datasets_builder.questions`), here one image with two questions:

    {"source": "shapes-easy/train/000000", "image": <PIL 64 × 64>,
     "conversations": [Conversation((("the red circle", "It is {seg}."),), (target,)),
                       Conversation((("the star", "No, ..."),), (target,))],
     "masks": [(1, 64, 64) uint8, (0, 64, 64) uint8]}

Its row of the batch (B = 1): the shared prefix, then each question with its answer, isolated from the other.

    input_ids     <bos> user <image> × 16 | the red circle … It is [SEG] . | the star … No , …
    question_ids  0     0    0            | 1   1   1        1  1  1     1 | 2   2      2
    labels        -100  …                 | -100 …           It is [SEG] . | -100 …     No , …
    prepared: its seg_positions, mask_targets                      ^ one, (1, 64, 64)
"""

import numpy as np
import torch

from gemma_lisa.configuration_gemma_lisa import GemmaLisaConfig
from gemma_lisa.datasets_builder.rows import SEG_SLOT
from gemma_lisa.datasets_builder.templates import Conversation
from gemma_lisa.feature_cache.cache import FeatureCache, image_inputs
from gemma_lisa.losses_gemma_lisa import IGNORE_INDEX
from gemma_lisa.packing_gemma_lisa import Prepared, find_learned, find_positions
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor, pad_rows
from gemma_lisa.targets_gemma_lisa import pad_masks

# Encoded conversations are deleted when they have more tokens, which need about 25 MB
MAX_ENCODED_TOKENS = 500_000


class GemmaLisaCollator:
    """Convert samples to a batch for `GemmaLisaForConditionalGeneration.forward`, padded on the right.

    It also checks, resizes and pads the masks, and locates image and `[SEG]` tokens, so that the training step needs no
    GPU synchronization.

    Args:
        processor: processor for text and images.
        learn_masks: False omits SAM's images and the masks, for training the language model only.
        with_sources: add the source of each row, for a trainer that removes it before `forward`.
        as_bytes: keep images as uint8. Workers then transfer less data, and the trainer normalizes on the device.
        mask_loss_size: maximum side of the target masks in pixels; must be `config.mask_loss_size` of the model.
        cache: features that replace the pixels of a batch if those of all its images are found; None for pixels.

    Encoded texts are kept for later batches, so the tokenizer must not change.

    Returns (when called):
        a dict; shapes as in `forward`:
        input_ids, attention_mask, token_type_ids, labels, question_ids: (B, L) int64;
        prepared: `Prepared`, valid only for this batch;
        pixel_values if there are images; unless `learn_masks` is False, also sam_pixel_values, original_sizes,
        reshaped_input_sizes, and masks in `prepared`;
        image_features and image_embeddings in bf16 in place of the pixels, if `cache` has them;
        sample_ids: (B,) int64, if the samples have an index (evaluation); `prepared` then has full_masks;
        sources: B str, if `with_sources`.

    Raises:
        ValueError: the number of `[SEG]` tokens of an answer is not the number of its masks; masks with values other
            than 0, 1 and 255. The message names the source of the row.
    """

    def __init__(
        self,
        processor: GemmaLisaProcessor,
        learn_masks: bool = True,
        with_sources: bool = False,
        as_bytes: bool = False,
        mask_loss_size: int = GemmaLisaConfig.mask_loss_size,
        cache: FeatureCache | None = None,
    ):
        self.processor = processor
        self.learn_masks = learn_masks
        self.with_sources = with_sources
        self.as_bytes = as_bytes
        self.mask_loss_size = mask_loss_size
        self.cache = cache
        self._encoded: dict[tuple, tuple[list[int], list[int]]] = {}  # keys of `_encode`
        self._encoded_tokens = 0

    def __call__(self, samples: list[dict]) -> dict[str, torch.Tensor | Prepared | list[str]]:
        if samples[0] is None:  # a resumed stream: Trainer skips the batches that it has already seen
            return {}
        rows = [self._join(sample, encoded) for sample, encoded in zip(samples, self._encode(samples), strict=True)]
        fills = {"input_ids": self.processor.tokenizer.pad_token_id, "labels": IGNORE_INDEX, "question_ids": -1}
        batch = pad_rows({name: ([row[name] for row in rows], fill) for name, fill in fills.items()})
        batch["attention_mask"] = (batch["question_ids"] >= 0).long()
        batch["token_type_ids"] = (batch["input_ids"] == self.processor.tokenizer.image_token_id).long()
        batch["prepared"] = prepared = Prepared(
            shape=tuple(batch["input_ids"].shape),
            learned_positions=find_learned(batch["labels"]),
            seg_positions=find_positions(batch["input_ids"] == self.processor.seg_token_id),
            image_positions=find_positions(batch["token_type_ids"] == 1),
        )

        shown = [sample for sample in samples if sample["image"] is not None]
        images = [sample["image"] for sample in shown]
        batch |= image_inputs(self.cache, self.processor, images, self.learn_masks, self.as_bytes)
        is_evaluation = "index" in samples[0]
        if shown and self.learn_masks:
            full_masks = [
                torch.from_numpy(np.concatenate([masks for masks in sample["masks"] if masks is not None] or [_NONE]))
                for sample in shown
            ]
            sources = [sample["source"] for sample in shown]
            prepared.mask_targets, prepared.mask_sizes = pad_masks(full_masks, self.mask_loss_size, sources)
            prepared.mask_loss_size = self.mask_loss_size
            if is_evaluation:
                prepared.full_masks = full_masks
        if is_evaluation:
            batch["sample_ids"] = torch.tensor([sample["index"] for sample in samples])
        if self.with_sources:
            batch["sources"] = [sample["source"] for sample in samples]
        return batch

    def _encode(self, samples: list[dict]) -> list[list[tuple[list[int], list[int]]]]:
        """Return (token ids, assistant mask) of each conversation of each sample; a repeated text is encoded once."""
        settings = (self.processor.system_prompt, self.processor.chat_template)
        keys = [
            [(settings, conversation.turns, sample["image"] is None) for conversation in sample["conversations"]]
            for sample in samples
        ]
        if self._encoded_tokens > MAX_ENCODED_TOKENS:
            self._encoded, self._encoded_tokens = {}, 0
        new = {
            key: self._messages(conversation, sample["image"])
            for sample, row in zip(samples, keys, strict=True)
            for key, conversation in zip(row, sample["conversations"], strict=True)
            if key not in self._encoded
        }
        encoded = self.processor.encode_conversations(list(new.values()))
        self._encoded |= zip(new, encoded, strict=True)
        self._encoded_tokens += sum(len(ids) for ids, _ in encoded)
        return [[self._encoded[key] for key in row] for row in keys]

    def _messages(self, conversation: Conversation, image) -> list[dict]:
        """Return a conversation as messages, with the image before the first question."""
        messages = []
        for question, answer in conversation.turns:
            messages.append({"role": "user", "content": [{"type": "text", "text": question}]})
            messages.append({"role": "assistant", "content": answer.replace(SEG_SLOT, self.processor.seg_token)})
        if image is not None:
            messages[0]["content"].insert(0, {"type": "image", "image": image})
        return messages

    def _join(self, sample: dict, encoded: list[tuple[list[int], list[int]]]) -> dict[str, list[int]]:
        """Return the conversations of a sample as one row, after their shared prefix."""
        if not encoded:
            raise ValueError(f"{sample['source']}: the row has no question. It needs a target or a conversation.")
        first = encoded[0][0]
        prefix_length = 1  # <bos>
        if sample["image"] is not None:
            prefix_length = first.index(self.processor.tokenizer.eoi_token_id) + 1
        row = {
            "input_ids": first[:prefix_length],
            "labels": [IGNORE_INDEX] * prefix_length,
            "question_ids": [0] * prefix_length,
        }
        for number, ((ids, is_assistant), masks) in enumerate(zip(encoded, sample["masks"], strict=True), start=1):
            if ids[:prefix_length] != first[:prefix_length]:
                raise ValueError(
                    f"{sample['source']}: the conversations of a row must have the same prefix. Use separate rows."
                )
            num_seg, num_masks = ids.count(self.processor.seg_token_id), 0 if masks is None else len(masks)
            if num_seg != num_masks:
                raise ValueError(
                    f"{sample['source']}: answers and masks do not match ([SEG] tokens: {num_seg}, "
                    f"masks: {num_masks}). Every [SEG] of an answer needs one mask."
                )
            end = len(is_assistant) - is_assistant[::-1].index(1)  # without the template's text after the last answer
            row["input_ids"] = row["input_ids"] + ids[prefix_length:end]
            row["labels"] = row["labels"] + [
                token if has_label else IGNORE_INDEX
                for token, has_label in zip(ids[prefix_length:end], is_assistant[prefix_length:end], strict=True)
            ]
            row["question_ids"] = row["question_ids"] + [number] * (end - prefix_length)
        return row


_NONE = np.zeros((0, 1, 1), dtype=np.uint8)
