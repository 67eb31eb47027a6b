"""GemmaLisaProcessor: converts conversations to tensors for Gemma and SAM, and outputs to answers and masks.

Letters: B conversations, L tokens, I images, S [SEG] tokens, K masks of one image.
"""

from .versions_gemma_lisa import check_transformers  # noqa: F401 - first: it explains an import that fails

# isort: split
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import BatchFeature, Gemma3Processor
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from .answers_gemma_lisa import answer_status, mask_status, phrases_of, repeats_itself
from .chat_template_gemma_lisa import CHAT_TEMPLATE, ChatTemplateMixin, images_of, tokenizer_lock
from .compatibility_gemma_lisa import warn_of_unknown
from .images_gemma_lisa import PixelNormalization, blank_padding, write_pixels
from .lazy_images_gemma_lisa import as_lazy

# Every pattern here takes linear time: adjacent repetitions cannot match the same characters.
# Text between two masks of a list
_LINK = re.compile(r"\s*(,\s*)?(and\s*)?")
_SPACES, _COMMAS = re.compile(r" {2,}"), re.compile(r",(\s*,)+")
_SPACE_BEFORE_PUNCTUATION = re.compile(r"(?<!\s)\s+(?=[.,;:!?]|$)")
_ZERO_WIDTH_SPACE = "\u200b"


class GemmaLisaProcessor(ChatTemplateMixin, Gemma3Processor):
    """Processor of Gemma 3, extended by SAM's image processor and the `[SEG]` token.

    Args:
        image_processor: Gemma's image processor. It is converted to the PIL version, so that results do not depend on
            torchvision.
        tokenizer: Gemma's fast tokenizer with the special token `[SEG]`.
        sam_image_processor: SAM's image processor. It is converted to the PIL version too.
        chat_template: Gemma's template with generation marks (default: `CHAT_TEMPLATE`).
        image_seq_length: number of tokens of one image.
        seg_token: the token that stands for a mask.
        system_prompt: system prompt for conversations without a system turn. It is saved with the processor, so that
            training and inference use the same one.
    """

    def __init__(
        self,
        image_processor,
        tokenizer,
        sam_image_processor,
        chat_template: str | None = None,
        image_seq_length: int = 256,
        seg_token: str = "[SEG]",
        system_prompt: str | None = None,
        **kwargs,
    ):
        if seg_token not in tokenizer.get_added_vocab():
            raise ValueError(
                f"The tokenizer has no token {seg_token}, so this is not a Gemma-LISA checkpoint. Make one with "
                "scripts/init_checkpoint.py."
            )
        self.seg_token = seg_token
        self.seg_token_id = tokenizer.convert_tokens_to_ids(seg_token)
        self.system_prompt = system_prompt
        self.sam_image_processor = SamImageProcessorPil.from_dict(sam_image_processor.to_dict())
        super().__init__(
            image_processor=Gemma3ImageProcessorPil.from_dict(image_processor.to_dict()),
            tokenizer=tokenizer,
            sam_image_processor=self.sam_image_processor,
            chat_template=chat_template or CHAT_TEMPLATE,
            image_seq_length=image_seq_length,
            **kwargs,
        )

    def apply_chat_template(
        self,
        conversation: list[dict] | list[list[dict]],
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = None,
        return_assistant_tokens_mask: bool = False,
        padding_side: str = "left",
        continue_final_message: bool = False,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs,
    ) -> str | list[str] | BatchFeature | torch.Tensor:
        """Return conversations as text, or as tensors for Gemma and SAM.

        Args:
            conversation: list of messages `{"role", "content"}`, or a list of such lists. The content is a string or a
                list of parts `{"type": "text", "text"}` and `{"type": "image", "image": PIL image or path}`, with at
                most one image. A special token in a user or system text stays text, even if several parts or turns
                form it together. `[SEG]` inside one text of a model's turn is the token.
            add_generation_prompt: append the beginning of the model's turn.
            tokenize, return_dict: `tokenize=False` returns text. With `tokenize=True`, `return_dict` selects the batch
                (True) or `input_ids` (False).
            return_tensors: "pt" or None. The output has tensors in both cases.
            return_assistant_tokens_mask: add `assistant_masks` (B, L), 1 for tokens of the model's turns.
            padding_side: "left" for generation, "right" for training.
            continue_final_message: leave the last turn of the model open, so that generation continues it.
            processor_kwargs: tokenizer options as passed by TRL and the pipelines of transformers: padding_side,
                pad_to_multiple_of, and max_length with truncation, which raises if a conversation is longer.

        Returns:
            BatchFeature of input_ids, attention_mask, token_type_ids (B, L); if there are images, also pixel_values
            (I, 3, 896, 896), sam_pixel_values (I, 3, 1024, 1024), original_sizes and reshaped_input_sizes (I, 2).

        Raises:
            ValueError: two images in one conversation, turns that do not alternate, or an option that is not supported.
        """
        if not conversation:
            raise ValueError("There is no conversation. Pass a list of messages, or a list of such lists.")
        conversations = conversation if isinstance(conversation[0], list) else [conversation]
        if not tokenize:
            texts = super().apply_chat_template(
                [self._complete(messages) for messages in conversations],
                chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **kwargs,
            )
            return texts if conversations is conversation else texts[0]
        options = {"padding_side": padding_side, **kwargs, **(processor_kwargs or {})}
        multiple, longest, padding_side = _read_tokenizing_options(options)
        encoded = self.encode_conversations(conversations, add_generation_prompt, chat_template, continue_final_message)
        batch = self.pad_conversations(encoded, multiple, longest, padding_side)
        if not return_assistant_tokens_mask:
            batch.pop("assistant_masks")
        if not return_dict:
            return batch["input_ids"]
        images = [image for messages in conversations for image in images_of(messages)]
        return BatchFeature({**batch, **(self.encode_images(images) if images else {})})

    def pad_conversations(
        self, encoded: list, multiple: int = 1, longest: int | None = None, padding_side: str = "left"
    ) -> dict[str, torch.LongTensor]:
        """Return input_ids, attention_mask, assistant_masks and token_type_ids of encoded conversations, (B, L)."""
        if longest is not None and (length := max(len(ids) for ids, _ in encoded)) > longest:
            raise ValueError(
                f"A conversation has {length} tokens, but max_length is {longest}. Truncation is not supported: it "
                "could cut an image or a [SEG]. Raise max_length, or shorten the conversation."
            )
        padded = pad_rows(
            {
                "input_ids": ([ids for ids, _ in encoded], self.tokenizer.pad_token_id),
                "attention_mask": ([[1] * len(ids) for ids, _ in encoded], 0),
                "assistant_masks": ([mask for _, mask in encoded], 0),
            },
            padding_side,
            multiple,
        )
        padded["token_type_ids"] = (padded["input_ids"] == self.tokenizer.image_token_id).long()
        return padded

    def __call__(self, images=None, text=None, **kwargs) -> BatchFeature:
        """Process rendered texts and their images, as Gemma 3's processor does, and add the inputs of SAM.

        A special token in such a text is always the token. Use `apply_chat_template` if users can type one.
        """
        kwargs.pop("return_tensors", None)
        first = text if isinstance(text, str) or text is None else text[0]
        if first is not None and first.startswith(self.tokenizer.bos_token):
            kwargs.setdefault("add_special_tokens", False)  # the template has added <bos>
        # Gemma's processor must not open the images, so it gets blank ones that it only counts
        nested = images if isinstance(images, list) or images is None else [images]
        blank = Image.new("RGB", (1, 1))
        counted = nested and [[blank] * len(part) if isinstance(part, list) else blank for part in nested]
        with tokenizer_lock:
            batch = super().__call__(images=counted, text=text, return_tensors="pt", **{"padding": True, **kwargs})
        if images is not None:
            flat = [image for part in nested for image in (part if isinstance(part, list) else [part])]
            batch.update(self.encode_images(flat))
        return batch

    def encode_images(
        self, images: list[Any], with_sam: bool = True, as_bytes: bool = False
    ) -> dict[str, torch.Tensor]:
        """Return pixel_values, sam_pixel_values, original_sizes and reshaped_input_sizes, as `apply_chat_template`.

        Sizes are those of the whole upright image. Large JPEG files are decoded at a reduced size (see
        `LazyImage.load_for`), but a decoded PIL image is not reduced. A side that SAM's resizing would reduce to 0
        pixels keeps one pixel.

        Args:
            images: PIL images, paths, bytes, or `LazyImage`.
            with_sam: False omits the inputs of SAM.
            as_bytes: keep the pixels as uint8, which needs a quarter of the memory. Call `normalize_images` later, on
                the device of the model.

        Raises:
            ValueError: an image that `load_rgb` cannot open.
        """
        gemma_size = self.image_processor.size["width"], self.image_processor.size["height"]
        pad_size, side = self.sam_image_processor.pad_size, self.sam_image_processor.size["longest_edge"]
        for_gemma = np.empty((len(images), 3, *gemma_size[::-1]), dtype=np.uint8)
        for_sam = np.zeros((len(images) if with_sam else 0, 3, pad_size["height"], pad_size["width"]), dtype=np.uint8)
        sizes = []
        for index, image in enumerate(map(as_lazy, images)):
            width, height = sam_size = _sam_size(image.size, side)
            rgb = image.load_for([gemma_size, sam_size])  # also without SAM, so that Gemma's image is the same
            write_pixels(rgb.resize(gemma_size, self.image_processor.resample), for_gemma[index])
            if with_sam:
                sam_rgb = rgb.resize(sam_size, self.sam_image_processor.resample)
                write_pixels(sam_rgb, for_sam[index, :, :height, :width])
                sizes.append((image.size[::-1], (height, width)))
        encoded = {"pixel_values": torch.from_numpy(for_gemma)}
        if with_sam:
            encoded["sam_pixel_values"] = torch.from_numpy(for_sam)
            encoded["original_sizes"], encoded["reshaped_input_sizes"] = torch.tensor(sizes).unbind(1)
        return encoded if as_bytes else self.normalize_images(encoded)

    def normalize_images(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch with the uint8 images of `encode_images` normalized to float32, on their device.

        Results are bit-identical to the stock image processors. Images that are not uint8 are not changed.
        """
        batch = dict(batch)
        processors = {"pixel_values": self.image_processor, "sam_pixel_values": self.sam_image_processor}
        for name, image_processor in processors.items():
            if name in batch and batch[name].dtype == torch.uint8:
                batch[name] = PixelNormalization(image_processor)(batch[name])
                if name == "sam_pixel_values":
                    blank_padding(batch[name], batch["reshaped_input_sizes"])
        return batch

    def post_process_segmentation(
        self, output, inputs, threshold: float = 0.0, encode_mask: Callable[[torch.BoolTensor], Any] | None = None
    ) -> list[dict[str, Any]]:
        """Return the output of `segment` as one answer per conversation (or `num_return_sequences` answers each).

        Args:
            output: `SegmentOutput` of `model.segment(**inputs)`.
            inputs: the batch that was passed to `segment`.
            threshold: mask logits above it are foreground.
            encode_mask: function that encodes each mask (H, W). `masks` is then the list of its results. Only one mask
                is in memory at a time: a mask of 8000 × 6000 pixels takes 48 MB.

        Returns:
            for each conversation a dict of
            text (str): the answer without `[SEG]`;
            raw_text (str): the answer with `[SEG]`. If the model spells "[SEG]" in plain text, it contains a zero-width
            space;
            phrases (list of K str): the phrase of each mask, see `phrases_of`;
            masks (bool (K, H, W)): masks at the size of the image in pixels;
            scores (float (K,)): SAM's own estimate of each mask's IoU;
            complete (bool): the model ended its turn, and the answer does not repeat itself (`repeats_itself`);
            status (str): "found", "low confidence", "nothing found", "not there", "text only" or "incomplete"; see
            `answer_status`.
            K = 0 if the answer has no `[SEG]`. H = W = 0 if the conversation has no image.
        """
        prompts = inputs["input_ids"]
        images = self.image_of_each_row(prompts)
        each = len(output.sequences) // len(prompts)  # answers per conversation
        answers, mask = [], 0
        areas: list[int] = []

        def encode_and_measure(one: torch.BoolTensor) -> Any:
            areas.append(int(one.count_nonzero()))
            return encode_mask(one)

        for row, new_tokens in enumerate(output.sequences[:, prompts.shape[1] :].tolist()):
            image = images[row // each]
            answer = self.read_answer(new_tokens)
            areas.clear()
            answer["masks"] = torch.zeros(0, 0, 0, dtype=torch.bool)
            answer["scores"] = torch.zeros(0)
            if image is None:
                answer["phrases"] = []
            elif output.pred_masks is not None:
                mine = slice(mask, mask + new_tokens.count(self.seg_token_id))
                mask = mine.stop
                answer["masks"] = self.threshold_masks(
                    output.pred_masks[mine],
                    inputs["original_sizes"][image].tolist(),
                    inputs["reshaped_input_sizes"][image].tolist(),
                    threshold,
                    encode_mask and encode_and_measure,
                )
                answer["scores"] = output.iou_scores[mine].float().cpu()
            if encode_mask is None:
                areas.extend(answer["masks"].flatten(1).sum(1).tolist())
            answer["status"] = self.status_of(answer, areas)
            answers.append(answer)
        return answers

    def masks_to_image(
        self, pred_masks: torch.FloatTensor, original_size: tuple[int, int], reshaped_size: tuple[int, int]
    ) -> torch.FloatTensor:
        """Return mask logits (K, h, w) on SAM's padded square, resized to the image: (K, H, W), as SAM does."""
        if len(pred_masks) == 0:
            return pred_masks.new_zeros(0, *original_size)
        side = self.sam_image_processor.pad_size["height"]
        logits = F.interpolate(pred_masks[:, None].float(), (side, side), mode="bilinear", align_corners=False)
        logits = logits[..., : int(reshaped_size[0]), : int(reshaped_size[1])]
        return F.interpolate(logits, tuple(map(int, original_size)), mode="bilinear", align_corners=False)[:, 0]

    def threshold_masks(
        self,
        pred_masks: torch.FloatTensor,
        original_size: tuple[int, int],
        reshaped_size: tuple[int, int],
        threshold: float = 0.0,
        encode_mask: Callable[[torch.BoolTensor], Any] | None = None,
    ) -> torch.BoolTensor | list[Any]:
        """Return masks (K, H, W) on the CPU for mask logits (K, h, w): `masks_to_image` above the threshold.

        With `encode_mask`, return the list of its results. Masks are processed one at a time, because the logits of one
        mask of 8000 × 6000 pixels take 192 MB.
        """
        each = (self.masks_to_image(logits[None], original_size, reshaped_size)[0] > threshold for logits in pred_masks)
        if encode_mask is not None:
            return [encode_mask(mask.cpu()) for mask in each]
        masks = torch.zeros(len(pred_masks), *original_size, dtype=torch.bool)
        for mask, found in zip(masks, each, strict=True):
            mask.copy_(found)
        return masks

    def status_of(self, answer: dict[str, Any], areas: list[int]) -> str:
        """Return the `answer_status` of an answer whose masks have these areas (K) in pixels."""
        statuses = [mask_status(*pair) for pair in zip(areas, answer["scores"].tolist(), strict=True)]
        return answer_status(answer["text"], answer["complete"], statuses)

    def read_answer(self, new_tokens: list[int]) -> dict[str, Any]:
        """Return text, raw_text, phrases and complete of generated tokens; see `post_process_segmentation`."""
        stops = {self.tokenizer.eos_token_id, self.tokenizer.convert_tokens_to_ids("<end_of_turn>")}
        end = next((at for at, token in enumerate(new_tokens) if token in stops), None)
        answer_tokens = new_tokens[:end]
        pieces: list[list[int]] = [[]]
        for token in answer_tokens:
            if token == self.seg_token_id:
                pieces.append([])
            else:
                pieces[-1].append(token)
        words = [self.tokenizer.decode(piece, skip_special_tokens=True) for piece in pieces]
        # Commas and "and" between two masks of a list are dropped from the text
        kept = [word for at, word in enumerate(words) if not (0 < at < len(words) - 1 and _LINK.fullmatch(word))]
        spelled = f"{self.seg_token[0]}{_ZERO_WIDTH_SPACE}{self.seg_token[1:]}"
        text = _COMMAS.sub(",", _SPACES.sub(" ", "".join(kept)))
        # "[SEG]" spelled in plain text must not become the token in a later turn
        raw_text = self.seg_token.join(word.replace(self.seg_token, spelled) for word in words).strip()
        return {
            "text": _SPACE_BEFORE_PUNCTUATION.sub("", text).strip(),
            "raw_text": raw_text,
            "phrases": phrases_of(words),
            "complete": end is not None and not repeats_itself(raw_text, self.seg_token),
        }


def pad_rows(
    columns: dict[str, tuple[list[list[int]], int]], padding_side: str = "right", multiple: int = 1
) -> dict[str, torch.LongTensor]:
    """Return the rows of each column as a padded (B, L) int64 tensor, where L is a multiple of `multiple`.

    Args:
        columns: for each name, the rows and the padding value.
    """
    padded = {}
    for name, (rows, fill) in columns.items():
        length = -(-max(map(len, rows)) // multiple) * multiple
        gaps = [[fill] * (length - len(row)) for row in rows]
        rows = [gap + row if padding_side == "left" else row + gap for row, gap in zip(rows, gaps, strict=True)]
        padded[name] = torch.tensor(rows, dtype=torch.int64)
    return padded


def _read_tokenizing_options(options: dict[str, Any]) -> tuple[int, int | None, str]:
    """Return the multiple to pad to, the maximum length (or None), and the padding side.

    Raises:
        ValueError: an option that would have no effect.
    """
    options = dict(options)
    padding = options.pop("padding", True)
    if padding not in (True, "longest"):
        raise ValueError(
            f"padding={padding!r} is not supported, because a batch is always padded to its longest conversation. Use "
            "encode_conversations for conversations without padding."
        )
    longest, truncation = options.pop("max_length", None), options.pop("truncation", None)
    multiple, side = options.pop("pad_to_multiple_of", None), options.pop("padding_side")
    for name in ("add_special_tokens", "return_tensors"):  # without effect: the template adds the special tokens
        options.pop(name, None)
    # transformers passes disabled options of other models' processors
    warn_of_unknown("apply_chat_template", [name for name, value in options.items() if value not in (None, False)])
    return multiple or 1, longest if truncation else None, side


def _sam_size(size: tuple[int, int], longest_edge: int) -> tuple[int, int]:
    """Return (width, height) in pixels after SAM's resizing, but at least 1 (the stock processor can return 0)."""
    scale = longest_edge / max(size)
    return tuple(max(1, int(side * scale + 0.5)) for side in size)


GemmaLisaProcessor.register_for_auto_class("AutoProcessor")
