"""GemmaLisaProcessor: conversations to tensors for Gemma and SAM, and masks back to the pixels of the images.

Letters: B conversations, L tokens, I images, S [SEG] tokens, K masks of one image.
"""

from .versions_gemma_lisa import check_transformers  # noqa: F401 - first: it explains what a name's absence means

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
from .images_gemma_lisa import PixelNormalization, blank_padding, load_rgb, write_pixels

# Every pattern here takes time in proportion to the text: no two repetitions beside each other match the same.
# What links the masks of a list.
_LINK = re.compile(r"\s*(,\s*)?(and\s*)?")
_SPACES, _COMMAS = re.compile(r" {2,}"), re.compile(r",(\s*,)+")
_SPACE_BEFORE_PUNCTUATION = re.compile(r"(?<!\s)\s+(?=[.,;:!?]|$)")
_ZERO_WIDTH_SPACE = "\u200b"


class GemmaLisaProcessor(ChatTemplateMixin, Gemma3Processor):
    """Gemma 3's processor, SAM's image processor and the `[SEG]` token.

    Args:
        image_processor: Gemma's; the PIL one is used whatever comes, so that the numbers do not depend on torchvision.
        tokenizer: Gemma's fast tokenizer, with `[SEG]` among its special tokens.
        sam_image_processor: SAM's; likewise.
        chat_template: Gemma's template with generation marks; `CHAT_TEMPLATE` if None.
        image_seq_length: tokens of one image.
        seg_token: the token that stands for a mask.
        system_prompt: put before every conversation that has no system turn of its own; kept with the processor, so
            that training and inference agree.
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
                f"The tokenizer has no token {seg_token}: this is no Gemma-LISA checkpoint; make one with "
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
        """Conversations as text, or as the tensors of both towers.

        Args:
            conversation: messages `{"role", "content"}`, or a list of such lists; content is a string or parts
                `{"type": "text", "text"}` and `{"type": "image", "image": PIL image or path}`. One image at most.
                A special token inside a user's or a system text stays text, also where several parts or turns form it
                together. `[SEG]` inside one text of a model's turn is the token.
            add_generation_prompt: end with the opening of the model's turn.
            tokenize, return_dict: False gives text; True, True gives the batch; True, False gives `input_ids`.
            return_tensors: "pt" or None; tensors are made either way when `tokenize` is set.
            return_assistant_tokens_mask: add `assistant_masks` (B, L), 1 where the model speaks.
            padding_side: "left" for generation, "right" for training.
            continue_final_message: leave the model's last turn open, so that generation continues it.
            processor_kwargs: tokenizing options as TRL and the stock pipelines pass them: padding_side,
                pad_to_multiple_of, and max_length with truncation, which raises for what is longer.

        Returns:
            BatchFeature of input_ids, attention_mask, token_type_ids (B, L); where there are images also pixel_values
            (I, 3, 896, 896), sam_pixel_values (I, 3, 1024, 1024), original_sizes and reshaped_input_sizes (I, 2).

        Raises:
            ValueError: two images in one conversation, turns that do not alternate, or an option that is not supported.
        """
        if not conversation:
            raise ValueError("There is no conversation; give a list of messages, or a list of such lists.")
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
        batch = self._pad_conversations(encoded, multiple, longest, padding_side)
        if not return_assistant_tokens_mask:
            batch.pop("assistant_masks")
        if not return_dict:
            return batch["input_ids"]
        images = [image for messages in conversations for image in images_of(messages)]
        return BatchFeature({**batch, **(self.encode_images(images) if images else {})})

    def _pad_conversations(
        self, encoded: list[tuple[list[int], list[int]]], multiple: int, longest: int | None, padding_side: str
    ) -> dict[str, torch.LongTensor]:
        """Return input_ids, attention_mask, assistant_masks and token_type_ids, each (B, L)."""
        if longest is not None and (length := max(len(ids) for ids, _ in encoded)) > longest:
            raise ValueError(
                f"A conversation has {length} tokens, max_length is {longest}. Truncating is not supported: it would "
                "cut an image or a [SEG]. Raise max_length, or shorten the conversation."
            )
        padded = pad_rows(
            {
                "input_ids": ([ids for ids, _ in encoded], self.tokenizer.pad_token_id),
                "attention_mask": ([[1] * len(ids) for ids, _ in encoded], 0),
                "assistant_masks": ([spoken for _, spoken in encoded], 0),
            },
            padding_side,
            multiple,
        )
        padded["token_type_ids"] = (padded["input_ids"] == self.tokenizer.image_token_id).long()
        return padded

    def __call__(self, images=None, text=None, **kwargs) -> BatchFeature:
        """Gemma 3's call for texts that are already rendered, with SAM's inputs beside Gemma's.

        A special token in such a text is the token, whoever typed it; `apply_chat_template` can tell them apart.
        """
        kwargs.pop("return_tensors", None)
        first = text if isinstance(text, str) or text is None else text[0]
        if first is not None and first.startswith(self.tokenizer.bos_token):
            kwargs.setdefault("add_special_tokens", False)  # the template has written <bos>
        # Gemma's processor opens images in its own way, so it counts blank ones
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
        """Images (PIL or paths) for both towers: pixel_values, sam_pixel_values, original_sizes, reshaped_input_sizes.

        Shapes as in `apply_chat_template`; images are opened by `load_rgb`, and sizes count after it. A side that SAM's
        resizing would leave without a pixel keeps one.

        Args:
            images: to be looked at.
            with_sam: False leaves out all that is SAM's.
            as_bytes: leave the pixels uint8, a quarter of the memory: `normalize_images` does the rest later, where the
                model is.

        Raises:
            ValueError: an image that `load_rgb` refuses.
        """
        size, pad_size = self.image_processor.size, self.sam_image_processor.pad_size
        side = self.sam_image_processor.size["longest_edge"]
        for_gemma = np.empty((len(images), 3, size["height"], size["width"]), dtype=np.uint8)
        for_sam = np.zeros((len(images) if with_sam else 0, 3, pad_size["height"], pad_size["width"]), dtype=np.uint8)
        original_sizes, reshaped_sizes = [], []
        for index, image in enumerate(images):
            rgb = load_rgb(image)
            write_pixels(rgb.resize((size["width"], size["height"]), self.image_processor.resample), for_gemma[index])
            if with_sam:
                width, height = _sam_size(rgb, side)
                sam_rgb = rgb.resize((width, height), self.sam_image_processor.resample)
                write_pixels(sam_rgb, for_sam[index, :, :height, :width])
                original_sizes.append((rgb.height, rgb.width))
                reshaped_sizes.append((height, width))
        encoded = {"pixel_values": torch.from_numpy(for_gemma)}
        if with_sam:
            encoded["sam_pixel_values"] = torch.from_numpy(for_sam)
            encoded["original_sizes"] = torch.tensor(original_sizes)
            encoded["reshaped_input_sizes"] = torch.tensor(reshaped_sizes)
        return encoded if as_bytes else self.normalize_images(encoded)

    def normalize_images(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with its images as both towers take them: uint8 of `encode_images` to float32, on their device.

        What the stock image processors give, bit for bit. Images that are not uint8 are left as they are.
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
        """What `segment` returned, as one answer for each conversation, or `num_return_sequences` in turn.

        Args:
            output: `SegmentOutput` of `model.segment(**inputs)`.
            inputs: the batch it was given.
            threshold: mask logits above it are foreground.
            encode_mask: what is made of each mask (H, W). `masks` is then a list of what it returned, and one mask is
                held at a time: 8000 × 6000 pixels are 48 MB a mask.

        Returns:
            for each conversation a dict of
            text (str): what was said, without `[SEG]`; raw_text (str): with it; where the model spelled one in words, a
            zero-width space stands inside;
            phrases (list of K str): what each mask stands for: the words before its `[SEG]`, back to the one before; in
            an answer that begins with words like "It is" only, those after it; "" where there are none;
            masks (bool (K, H, W)): at the image's own size, rows and columns in pixels;
            scores (float (K,)): SAM's own estimate of each mask's IoU;
            complete (bool): the model ended its turn, and the answer does not repeat itself (`repeats_itself`);
            status (str): "found", "low confidence", "nothing found", "not there", "text only" or "incomplete"; see
            `answer_status`.
            K = 0, with H = W = 0 where there is no image, when nothing is pointed at.
        """
        prompts = inputs["input_ids"]
        images = self.image_of_each_row(prompts)
        each = len(output.sequences) // len(prompts)  # answers to a conversation
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
        """Mask logits (K, h, w) on SAM's padded square, to (K, H, W) at the image's own size: SAM's way back."""
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
        """Mask logits (K, h, w) as masks (K, H, W) on the CPU: where `masks_to_image` is above the threshold.

        One at a time: the logits of one mask of 8000 × 6000 pixels are 192 MB. With `encode_mask` the list of what it
        makes of each mask.
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
        """Tokens the model wrote, as text, raw_text, phrases and complete: see `post_process_segmentation`."""
        stops = {self.tokenizer.eos_token_id, self.tokenizer.convert_tokens_to_ids("<end_of_turn>")}
        end = next((at for at, token in enumerate(new_tokens) if token in stops), None)
        said = new_tokens[:end]
        pieces: list[list[int]] = [[]]
        for token in said:
            if token == self.seg_token_id:
                pieces.append([])
            else:
                pieces[-1].append(token)
        words = [self.tokenizer.decode(piece, skip_special_tokens=True) for piece in pieces]
        # Between two masks of a list stand only commas and "and": without the masks they say nothing
        kept = [word for at, word in enumerate(words) if not (0 < at < len(words) - 1 and _LINK.fullmatch(word))]
        spelled = f"{self.seg_token[0]}{_ZERO_WIDTH_SPACE}{self.seg_token[1:]}"
        text = _COMMAS.sub(",", _SPACES.sub(" ", "".join(kept)))
        # `[SEG]` spelled in words must not be read as the token in a later turn
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
    """Ragged rows of each name as (B, L) int64, filled with the value beside them; L is a multiple of `multiple`."""
    padded = {}
    for name, (rows, fill) in columns.items():
        length = -(-max(map(len, rows)) // multiple) * multiple
        gaps = [[fill] * (length - len(row)) for row in rows]
        rows = [gap + row if padding_side == "left" else row + gap for row, gap in zip(rows, gaps, strict=True)]
        padded[name] = torch.tensor(rows, dtype=torch.int64)
    return padded


def _read_tokenizing_options(options: dict[str, Any]) -> tuple[int, int | None, str]:
    """The multiple to pad to, the maximum length if one is to be kept, and the side to pad.

    Raises:
        ValueError: an option that would have no effect.
    """
    options = dict(options)
    padding = options.pop("padding", True)
    if padding not in (True, "longest"):
        raise ValueError(
            f"padding={padding!r} is not supported: the conversations of a batch are padded to the longest. "
            "encode_conversations does not pad."
        )
    longest, truncation = options.pop("max_length", None), options.pop("truncation", None)
    multiple, side = options.pop("pad_to_multiple_of", None), options.pop("padding_side")
    for name in ("add_special_tokens", "return_tensors"):  # the template writes them; tensors are made either way
        options.pop(name, None)
    # Stock code passes options of other models' processors, switched off
    warn_of_unknown("apply_chat_template", [name for name, value in options.items() if value not in (None, False)])
    return multiple or 1, longest if truncation else None, side


def _sam_size(image: Image.Image, longest_edge: int) -> tuple[int, int]:
    """(width, height) in pixels that SAM's resizing gives an image; no side less than 1, where the stock one has 0."""
    scale = longest_edge / max(image.size)
    return max(1, int(image.width * scale + 0.5)), max(1, int(image.height * scale + 0.5))


GemmaLisaProcessor.register_for_auto_class("AutoProcessor")
