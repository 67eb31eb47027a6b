"""GemmaLisaCollator: samples to a batch.

A sample (see `datasets_builder.questions`), one image with two questions:

    {"source": "shapes-easy/train/000000", "image": <PIL 64 × 64>,
     "conversations": [Conversation((("the red circle", "It is {seg}."),), (target,)),
                       Conversation((("the star", "No, ..."),), (target,))],
     "masks": [(1, 64, 64) uint8, (0, 64, 64) uint8]}

Its row of the batch (B = 1): the prefix they share, then each question with its answer, isolated from the other.

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
from gemma_lisa.losses_gemma_lisa import IGNORE_INDEX
from gemma_lisa.packing_gemma_lisa import Prepared, find_learned, find_positions
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor, pad_rows
from gemma_lisa.targets_gemma_lisa import pad_masks


class GemmaLisaCollator:
    """Samples to the batch of `GemmaLisaForConditionalGeneration.forward`, padded right.

    Masks are checked, resized and padded here, and everything that the model would have to search for is found here:
    so its training step never waits for the device.

    Args:
        processor: tokens and pixels.
        learn_masks: False leaves out SAM's images and the masks: a stage that learns words only.
        with_sources: name the rows, for a trainer that takes the names out again.
        as_bytes: leave images uint8, which the trainer normalizes on the device: less to hand over for its workers.
        mask_loss_size: maximum side of the target masks in pixels: `config.mask_loss_size` of the model.

    Returns (when called):
        a dict; shapes as in `forward`:
        input_ids, attention_mask, token_type_ids, labels, question_ids: (B, L) int64;
        prepared: `Prepared`, which holds for the batch as it is;
        pixel_values, where there are images, and unless `learn_masks` is False also sam_pixel_values, original_sizes,
        reshaped_input_sizes, and masks in `prepared`;
        sample_ids: (B,) int64, where the samples bring their index (evaluation), and then `prepared` has full_masks;
        sources: B str, if asked for.

    Raises:
        ValueError: an answer whose `[SEG]` tokens are not as many as its masks, with the row's source; masks of values
            other than 0, 1 and 255, with the row's source.
    """

    def __init__(
        self,
        processor: GemmaLisaProcessor,
        learn_masks: bool = True,
        with_sources: bool = False,
        as_bytes: bool = False,
        mask_loss_size: int = GemmaLisaConfig.mask_loss_size,
    ):
        self.processor = processor
        self.learn_masks = learn_masks
        self.with_sources = with_sources
        self.as_bytes = as_bytes
        self.mask_loss_size = mask_loss_size

    def __call__(self, samples: list[dict]) -> dict[str, torch.Tensor | Prepared | list[str]]:
        if samples[0] is None:  # a stream that is resumed: Trainer counts the batches that were seen and drops them
            return {}
        conversations = [
            self._messages(conversation, sample["image"])
            for sample in samples
            for conversation in sample["conversations"]
        ]
        encoded = iter(self.processor.encode_conversations(conversations))
        rows = [self._join(sample, [next(encoded) for _ in sample["conversations"]]) for sample in samples]
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
        if shown:
            images = [sample["image"] for sample in shown]
            batch |= self.processor.encode_images(images, with_sam=self.learn_masks, as_bytes=self.as_bytes)
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

    def _messages(self, conversation: Conversation, image) -> list[dict]:
        """A conversation as messages; the image stands before its first question."""
        messages = []
        for question, answer in conversation.turns:
            messages.append({"role": "user", "content": [{"type": "text", "text": question}]})
            messages.append({"role": "assistant", "content": answer.replace(SEG_SLOT, self.processor.seg_token)})
        if image is not None:
            messages[0]["content"].insert(0, {"type": "image", "image": image})
        return messages

    def _join(self, sample: dict, encoded: list[tuple[list[int], list[int]]]) -> dict[str, list[int]]:
        """A sample's conversations behind the prefix they share, as one row."""
        if not encoded:
            raise ValueError(f"{sample['source']}: the row asks nothing; it needs a target or a conversation.")
        first = encoded[0][0]
        prefix_length = 1  # <bos>
        if sample["image"] is not None:
            prefix_length = first.index(self.processor.tokenizer.eoi_token_id) + 1
        row = {
            "input_ids": first[:prefix_length],
            "labels": [IGNORE_INDEX] * prefix_length,
            "question_ids": [0] * prefix_length,
        }
        for number, ((ids, spoken), masks) in enumerate(zip(encoded, sample["masks"], strict=True), start=1):
            if ids[:prefix_length] != first[:prefix_length]:
                raise ValueError(f"{sample['source']}: its conversations begin differently; make them separate rows.")
            num_seg, num_masks = ids.count(self.processor.seg_token_id), 0 if masks is None else len(masks)
            if num_seg != num_masks:
                raise ValueError(
                    f"{sample['source']}: {num_seg} [SEG] tokens but {num_masks} masks; every [SEG] of an answer needs "
                    "one mask."
                )
            end = len(spoken) - spoken[::-1].index(1)  # what the template writes after the last answer teaches nothing
            row["input_ids"] = row["input_ids"] + ids[prefix_length:end]
            row["labels"] = row["labels"] + [
                token if said else IGNORE_INDEX
                for token, said in zip(ids[prefix_length:end], spoken[prefix_length:end], strict=True)
            ]
            row["question_ids"] = row["question_ids"] + [number] * (end - prefix_length)
        return row


_NONE = np.zeros((0, 1, 1), dtype=np.uint8)
