"""ImageSession: a conversation about one image that keeps its KV cache between questions."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .bridge_gemma_lisa import SegPrompts, SegStates, project
from .chat_template_gemma_lisa import user_turn
from .compatibility_gemma_lisa import CACHE_NAME
from .images_gemma_lisa import load_rgb
from .mask_decoding_gemma_lisa import decode_masks, loaded_device, prompts_in_sam_frame
from .packing_gemma_lisa import masks_of_prompts

# Maximum number of tokens to guess at once: enough for the usual beginning of an answer, or the name of an object.
MAX_GUESSED = 8


@dataclass
class SessionMask:
    """State of a mask that a session keeps, so that the mask can be corrected later.

    Args:
        phrase: phrase of the mask, as in the answer's phrases.
        asked: prompts of SAM's decoder from the `[SEG]`.
        logits: (1, 256, 256) mask logits on SAM's padded square.
        points, box: all prompts of the user for this mask, in pixels of the image.
    """

    phrase: str
    asked: SegPrompts
    logits: torch.FloatTensor
    points: list[tuple[float, float, int]]
    box: tuple[float, float, float, float] | None


class ImageSession:
    """A conversation about one image. `model.start(image, processor)` creates it.

    The image is encoded once for Gemma and once for SAM, and the KV cache of the conversation is kept. The answers are
    those of `segment` for the same conversation, except for rounding below fp32.

    Answers often repeat words of earlier turns. Therefore, the next tokens are guessed from earlier text and verified
    in one forward pass (prompt lookup decoding, arXiv 2304.04487).

    Args:
        model: a Gemma-LISA.
        processor: its processor.
        image: PIL image, path or bytes, opened with `load_rgb`.
    """

    def __init__(self, model, processor, image: Any):
        model.check_can_generate()
        self.model, self.processor = model, processor
        self.messages: list[dict[str, Any]] = []  # the conversation so far, for apply_chat_template
        self.masks: list[SessionMask] = []  # the masks of all answers so far
        self.image = load_rgb(image)
        encoded = processor.encode_images([self.image])
        self._size = tuple(encoded["original_sizes"][0].tolist())  # (height, width)
        self._reshaped_size = tuple(encoded["reshaped_input_sizes"][0].tolist())
        self._ids: list[int] = []  # tokens in the cache
        self._earlier_ids: list[int] = []  # tokens of the conversation before `reset`, for guesses
        # Not created from the configuration, because a sliding-window cache cannot be cropped
        self._cache = DynamicCache()
        self._device = loaded_device(model, model.device)
        with torch.inference_mode():
            self._image_features = model.encode_for_gemma(encoded["pixel_values"].to(self._device))  # (1, 256, D)
            # (1, 256, 64, 64)
            self._image_embeddings = model.encode_for_sam(encoded["sam_pixel_values"])
            self._read(self._ids_of_image())

    def ask(self, question: str, **options: Any) -> dict[str, Any]:
        """Answer a question, given the conversation so far. See `stream` for the options.

        Returns:
            a dict of text, raw_text, phrases, masks (K, H, W), scores (K,), complete and status, as of the processor's
            `post_process_segmentation`.
        """
        *_, answer = self.stream(question, **options)
        return answer

    @torch.inference_mode()
    def stream(
        self,
        question: str,
        max_new_tokens: int = 64,
        threshold: float = 0.0,
        points: Any = None,
        box: Any = None,
        multimask_output: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Answer like `ask`, but yield the answer so far after every token. Stopping early discards the turn.

        Args:
            question: text of the question.
            max_new_tokens: maximum number of tokens of the answer (default: 64).
            threshold: mask logits above it are foreground (default: 0).
            points, box, multimask_output: as in `segment`, for this image.

        Raises:
            ValueError: an empty question; points or a box outside the image.
        """
        self._check_question(question, max_new_tokens)
        points = _as_list(points)
        prompts = prompts_in_sam_frame(points, box, self._size, self._reshaped_size)
        messages = [*self.messages, self._user_turn(question)]
        ((ids, _),) = self.processor.encode_conversations([messages], add_generation_prompt=True)
        known = _common_length(ids[:-1], self._ids)
        self._crop_to(known)
        guessed = self._guess(ids)  # in the cache, but not yet verified
        states = self._read(ids[known:] + guessed)[-len(guessed) - 1 :]  # (1 + guessed, D): last token and guesses

        config, stops = self.model.config, self.model.stop_token_ids
        new_tokens: list[int] = []
        found: list[SessionMask] = []
        masks = torch.zeros(0, *self._size, dtype=torch.bool)
        scores, areas = [], []
        for _ in range(max_new_tokens):
            before = states[:1]  # (1, D)
            token = int(self.model.lm_head(before[None]).argmax())  # of (1, 1, V)
            new_tokens.append(token)
            if guessed[:1] == [token]:
                guessed, states = guessed[1:], states[1:]
            elif token not in stops:
                self._crop_to(len(self._ids) - len(guessed))
                guessed = self._guess(ids + new_tokens)
                states = self._read([token, *guessed])  # (1 + guessed, D)
            answer = self.processor.read_answer(new_tokens)
            if token == config.seg_token_id:
                asked = self._project(states[:1] if config.seg_state == "token" else before)
                logits, score = self._decode(asked, *prompts, multimask_output=multimask_output)
                masks = torch.cat([masks, self._to_image(logits, threshold)])  # (K, H, W)
                scores.append(score)
                areas.append(int(masks[-1].count_nonzero()))
                found.append(SessionMask("", asked, logits, points or [], box))
            answer |= {"masks": masks, "scores": torch.tensor(scores)}
            answer["status"] = self.processor.status_of(answer, areas)
            if token in stops or len(new_tokens) == max_new_tokens:
                self._store_turn(messages, answer, found)
            yield answer
            if token in stops:
                return

    @torch.inference_mode()
    def correct(
        self, number: int, points: Any = None, box: Any = None, threshold: float = 0.0
    ) -> tuple[torch.BoolTensor, float]:
        """Correct a mask with points or a box, which are combined with its `[SEG]`.

        Points accumulate over calls and refine the current mask. A new box replaces the previous box, and the mask is
        predicted again from the box and all points.

        Args:
            number: index of the mask, counted from 0 over all answers of the session.
            points: N points of x, y in pixels of the image and label: 1 for a foreground point, 0 for a background
                point.
            box: left, top, right, bottom in pixels of the image.
            threshold: mask logits above it are foreground (default: 0).

        Returns:
            the mask (H, W), and SAM's own estimate of its IoU.

        Raises:
            ValueError: an unknown mask; neither points nor a box; a point or box outside the image.
        """
        if not 0 <= number < len(self.masks):
            raise ValueError(
                f"Mask {number} does not exist. Number of masks in this session, counted from 0: {len(self.masks)}."
            )
        points = _as_list(points) or []
        if not points and box is None:
            raise ValueError("A correction needs points or a box, got neither.")
        kept = self.masks[number]
        clicked = [*kept.points, *points]
        mask_inputs = kept.logits if box is None else None
        box = kept.box if box is None else box
        prompts = prompts_in_sam_frame(clicked or None, box, self._size, self._reshaped_size)
        logits, score = self._decode(kept.asked, *prompts, mask_inputs=mask_inputs)  # (1, 256, 256)
        self.masks[number] = SessionMask(kept.phrase, kept.asked, logits, clicked, box)
        return self._to_image(logits, threshold)[0], score

    def reset(self) -> None:
        """Start a new conversation about the same image, which stays encoded."""
        self.messages, self.masks, self._earlier_ids = [], [], self._ids

    def _check_question(self, question: str, max_new_tokens: int) -> None:
        """Raise ValueError if the question is empty, max_new_tokens is below 1, or the model cannot generate."""
        self.model.check_can_generate()
        if not question.strip():
            raise ValueError("The question is empty. Write what to look for.")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}.")

    def _project(self, state: torch.FloatTensor) -> SegPrompts:
        """Return the prompts of SAM's decoder for Gemma's state (1, D) at a `[SEG]`."""
        first = torch.zeros(1, dtype=torch.long, device=state.device)
        shares = self.model.image_shares(torch.tensor([self._reshaped_size]), is_needed=True)
        seg = SegStates(state, first, self._image_embeddings, state, self._image_features, shares)
        return project(self.model.seg_projector, seg)

    def _decode(self, asked: SegPrompts, *prompts: Any, **options: Any) -> tuple[torch.Tensor, float]:
        """Return mask logits (1, 256, 256) and their score for one `[SEG]`, as `decode_masks` does."""
        if options.get("mask_inputs") is None:
            options |= {"mask_inputs": asked.mask_inputs}
        logits, score = decode_masks(self.model.sam, asked.embeddings, self._image_embeddings, *prompts, **options)
        return logits, float(score)

    def _store_turn(self, messages: list[dict[str, Any]], answer: dict[str, Any], found: list[SessionMask]) -> None:
        """Store a finished turn: the question, the answer and its masks."""
        self.messages = [*messages, {"role": "assistant", "content": answer["raw_text"]}]
        for kept, kept.phrase in zip(found, answer["phrases"], strict=True):
            self.masks.append(kept)

    def _user_turn(self, question: str) -> dict[str, Any]:
        """Return the question as a message. The first turn also has the image."""
        return user_turn(question, None if self.messages else self.image)

    def _ids_of_image(self) -> list[int]:
        """Return the common prefix of all conversations about the image, up to its last image token."""
        ((ids, _),) = self.processor.encode_conversations([[user_turn("", self.image)]])
        return ids[: len(ids) - ids[::-1].index(self.model.config.image_token_id)]

    def _guess(self, ids: list[int]) -> list[int]:
        """Guess the next tokens: those after an earlier occurrence of the last two tokens, or of the last one."""
        known = self._earlier_ids + ids
        ends = {self.model.config.image_token_id, *self.model.stop_token_ids}
        for length in (2, 1):
            for start in range(len(known) - length - 1, -1, -1):
                if known[start : start + length] == known[-length:]:
                    followed = known[start + length : start + length + MAX_GUESSED]
                    return list(takewhile(lambda token: token not in ends, followed))
        return []

    def _crop_to(self, length: int) -> None:
        """Crop the cache to its first `length` tokens."""
        self._cache.crop(length - len(self._ids))
        self._ids = self._ids[:length]

    def _read(self, ids: list[int]) -> torch.FloatTensor:
        """Append tokens to the cache, and return Gemma's states at them, (n, D)."""
        gemma, shown = self.model.model, {}
        input_ids = torch.tensor([ids], device=self._device)  # (1, n)
        # The image is read only once: an image token that the model generates is an ordinary token
        if self.model.config.image_token_id in ids and self.model.config.image_token_id not in self._ids:
            is_image = (input_ids == self.model.config.image_token_id).long()
            features = BaseModelOutputWithPooling(pooler_output=self._image_features)
            shown = {"mm_encoder_outputs": {"image": features}, "token_type_ids": is_image}
            if not self._ids:
                text_config = self.model.config.text_config
                shown["attention_mask"] = masks_of_prompts(torch.ones_like(input_ids), is_image, text_config)
        read = gemma if shown else gemma.language_model  # the same result for text, but faster
        try:
            output = read(input_ids=input_ids, use_cache=True, **{CACHE_NAME: self._cache}, **shown)
        except BaseException:
            self._cache, self._ids = DynamicCache(), []  # only some layers may have been updated
            raise
        self._ids = self._ids + ids
        return output.last_hidden_state[0]  # (n, D)

    def _to_image(self, logits: torch.FloatTensor, threshold: float) -> torch.BoolTensor:
        return self.processor.threshold_masks(logits, self._size, self._reshaped_size, threshold)


def _common_length(one: list[int], other: list[int]) -> int:
    """Return the length of the common prefix of two lists."""
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return at
    return min(len(one), len(other))


def _as_list(points: Any) -> list[tuple[float, float, int]] | None:
    """Return points (list, array or tensor) as a list of tuples; None stays None."""
    return None if points is None else [tuple(point) for point in torch.as_tensor(points).tolist()]
