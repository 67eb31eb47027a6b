"""ImageSession: talk about one image for long; each question costs its own tokens only."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from transformers import DynamicCache

from .chat_template_gemma_lisa import user_turn
from .compatibility_gemma_lisa import CACHE_NAME
from .images_gemma_lisa import load_rgb
from .mask_decoding_gemma_lisa import decode_masks, loaded_device, prompts_in_sam_frame

# Tokens that are read ahead at most: an answer's usual beginning, or the name of a thing.
MAX_GUESSED = 8


@dataclass
class PointedAt:
    """What a session keeps of a mask, to correct it later.

    Args:
        phrase: what it stands for, as in the answer's phrases.
        seg_embedding: (1, C) its prompt of SAM's decoder.
        logits: (1, 256, 256) on SAM's padded square.
        points, box: what was clicked so far, in pixels of the image.
    """

    phrase: str
    seg_embedding: torch.FloatTensor
    logits: torch.FloatTensor
    points: list[tuple[float, float, int]]
    box: tuple[float, float, float, float] | None


class ImageSession:
    """A conversation about one image; `model.start(image, processor)` begins it.

    The image is encoded here, once for Gemma and once for SAM. The keys and values of all that was read are kept, so a
    question costs the reading of its own tokens and the writing of its answer, and answers are those that `segment`
    gives to the same conversation, but for rounding in types below fp32. Answers begin alike and name what was asked
    for, so what comes next is guessed from what was said before and read together; what is guessed wrong is forgotten
    (arXiv 2304.04487).

    Args:
        model: a Gemma-LISA.
        processor: its processor.
        image: PIL image, path or bytes, opened by `load_rgb`.
    """

    def __init__(self, model, processor, image: Any):
        model.check_can_generate()
        self.model, self.processor = model, processor
        self.messages: list[dict[str, Any]] = []  # what was said so far, as apply_chat_template takes it
        self.pointed_at: list[PointedAt] = []  # every mask so far, through all answers
        self.image = load_rgb(image)
        encoded = processor.encode_images([self.image])
        self._size = tuple(encoded["original_sizes"][0].tolist())  # (height, width)
        self._reshaped_size = tuple(encoded["reshaped_input_sizes"][0].tolist())
        self._ids: list[int] = []  # what the cache has read
        self._said: list[int] = []  # the conversation before this one
        # Not made of the configuration: its sliding layers forget, and could not be cut back
        self._cache = DynamicCache()
        self._device = loaded_device(model, model.device)
        self._pixel_values = encoded["pixel_values"].to(self._device)
        with torch.inference_mode():
            # (1, 256, 64, 64)
            self._image_embeddings = model.encode_for_sam(encoded["sam_pixel_values"])
            self._read(self._ids_of_image())

    def ask(self, question: str, **options: Any) -> dict[str, Any]:
        """The answer to a question, in the light of what was said before; see `stream` for the options.

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
        """As `ask`, but the answer so far after every token; a mask is there as soon as its `[SEG]` is written.

        Whoever stops before the end has not asked: the question is not remembered.

        Args:
            question: what is asked.
            max_new_tokens: of the answer.
            threshold: mask logits above it are foreground.
            points, box, multimask_output: as in `segment`, for this image.

        Raises:
            ValueError: an empty question; points or a box that are not inside the image.
        """
        self._check_question(question, max_new_tokens)
        points = _listed(points)
        prompts = prompts_in_sam_frame(points, box, self._size, self._reshaped_size)
        messages = [*self.messages, self._user_turn(question)]
        ((ids, _),) = self.processor.encode_conversations([messages], add_generation_prompt=True)
        known = _common_length(ids[:-1], self._ids)
        self._forget_from(known)
        guessed = self._guess(ids)  # read, and not yet said
        states = self._read(ids[known:] + guessed)[-len(guessed) - 1 :]  # (1 + guessed, D): at what was said, and them

        config, stops = self.model.config, self.model.stop_token_ids
        new_tokens: list[int] = []
        found: list[PointedAt] = []
        masks = torch.zeros(0, *self._size, dtype=torch.bool)
        scores: list[float] = []
        areas: list[int] = []
        for _ in range(max_new_tokens):
            before = states[:1]  # (1, D)
            token = int(self.model.lm_head(before[None]).argmax())  # of (1, 1, V)
            new_tokens.append(token)
            if guessed[:1] == [token]:
                guessed, states = guessed[1:], states[1:]
            elif token not in stops:
                self._forget_from(len(self._ids) - len(guessed))
                guessed = self._guess(ids + new_tokens)
                states = self._read([token, *guessed])  # (1 + guessed, D)
            answer = self.processor.read_answer(new_tokens)
            if token == config.seg_token_id:
                seg_embedding = self.model.project_seg(states[:1] if config.seg_state == "token" else before)  # (1, C)
                logits, score = self._decode(seg_embedding, *prompts, multimask_output=multimask_output)
                masks = torch.cat([masks, self._to_image(logits, threshold)])  # (K, H, W)
                scores.append(score)
                areas.append(int(masks[-1].count_nonzero()))
                found.append(PointedAt("", seg_embedding, logits, points or [], box))
            answer |= {"masks": masks, "scores": torch.tensor(scores)}
            answer["status"] = self.processor.status_of(answer, areas)
            if token in stops or len(new_tokens) == max_new_tokens:
                self._remember(messages, answer, found)
            yield answer
            if token in stops:
                return

    @torch.inference_mode()
    def correct(
        self, number: int, points: Any = None, box: Any = None, threshold: float = 0.0
    ) -> tuple[torch.BoolTensor, float]:
        """One mask again, with points or a box given by hand beside its `[SEG]`.

        Points add up over calls and begin from the mask as it is; a box takes the place of the one before, and the call
        that brings it begins anew: what lies outside it should not speak.

        Args:
            number: which mask, from 0, counted through all answers of the session.
            points: N of x, y and label in pixels of the image; 1 = on the thing, 0 = beside it.
            box: left, top, right, bottom in pixels of the image.
            threshold: mask logits above it are foreground.

        Returns:
            the mask (H, W), and SAM's own estimate of its IoU.

        Raises:
            ValueError: no such mask; neither points nor a box; not inside the image.
        """
        if not 0 <= number < len(self.pointed_at):
            raise ValueError(f"There is no mask {number}; there are {len(self.pointed_at)}, counted from 0.")
        points = _listed(points) or []
        if not points and box is None:
            raise ValueError("Nothing to correct the mask with; give points or a box.")
        kept = self.pointed_at[number]
        clicked = [*kept.points, *points]
        mask_inputs = kept.logits if box is None else None
        box = kept.box if box is None else box
        prompts = prompts_in_sam_frame(clicked or None, box, self._size, self._reshaped_size)
        logits, score = self._decode(kept.seg_embedding, *prompts, mask_inputs=mask_inputs)  # (1, 256, 256)
        self.pointed_at[number] = PointedAt(kept.phrase, kept.seg_embedding, logits, clicked, box)
        return self._to_image(logits, threshold)[0], score

    def forget(self) -> None:
        """Begin the conversation anew; the image stays read."""
        self.messages, self.pointed_at, self._said = [], [], self._ids

    def _check_question(self, question: str, max_new_tokens: int) -> None:
        """Raise if the question is empty, no token can be written, or the model cannot generate."""
        self.model.check_can_generate()
        if not question.strip():
            raise ValueError("The question is empty; write what to look for.")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; an answer has one at least.")

    def _decode(self, seg_embedding: torch.FloatTensor, *prompts: Any, **options: Any) -> tuple[torch.Tensor, float]:
        """Return mask logits (1, 256, 256) and their score for one prompt (1, C), as `decode_masks` does."""
        logits, score = decode_masks(self.model.sam, seg_embedding, self._image_embeddings, *prompts, **options)
        return logits, float(score)

    def _remember(self, messages: list[dict[str, Any]], answer: dict[str, Any], found: list[PointedAt]) -> None:
        """Keep a complete turn: what was asked, what was answered, and the answer's masks."""
        self.messages = [*messages, {"role": "assistant", "content": answer["raw_text"]}]
        for kept, kept.phrase in zip(found, answer["phrases"], strict=True):
            self.pointed_at.append(kept)

    def _user_turn(self, question: str) -> dict[str, Any]:
        """The first turn shows the image."""
        return user_turn(question, None if self.messages else self.image)

    def _ids_of_image(self) -> list[int]:
        """What every conversation about the image begins with: up to its last token."""
        ((ids, _),) = self.processor.encode_conversations([[user_turn("", self.image)]])
        return ids[: len(ids) - ids[::-1].index(self.model.config.image_token_id)]

    def _guess(self, ids: list[int]) -> list[int]:
        """What may come next: what followed, in its turn, where the last two tokens or the last one stood before."""
        said = self._said + ids
        ends = {self.model.config.image_token_id, *self.model.stop_token_ids}
        for length in (2, 1):
            for start in range(len(said) - length - 1, -1, -1):
                if said[start : start + length] == said[-length:]:
                    followed = said[start + length : start + length + MAX_GUESSED]
                    return list(takewhile(lambda token: token not in ends, followed))
        return []

    def _forget_from(self, length: int) -> None:
        """Cut what was read back to so many tokens."""
        self._cache.crop(length - len(self._ids))
        self._ids = self._ids[:length]

    def _read(self, ids: list[int]) -> torch.FloatTensor:
        """Read more tokens; Gemma's states at them, (n, D)."""
        gemma, shown = self.model.model, {}
        input_ids = torch.tensor([ids], device=self._device)  # (1, n)
        # Read once: where the model writes the image's token it is but a word
        if self.model.config.image_token_id in ids and self.model.config.image_token_id not in self._ids:
            is_image = (input_ids == self.model.config.image_token_id).long()
            shown = {"pixel_values": self._pixel_values, "token_type_ids": is_image}
        read = gemma if shown else gemma.language_model  # the same for words alone, and sooner done
        try:
            output = read(input_ids=input_ids, use_cache=True, **{CACHE_NAME: self._cache}, **shown)
        except BaseException:
            self._cache, self._ids = DynamicCache(), []  # some layers have read on and others have not
            raise
        self._ids = self._ids + ids
        return output.last_hidden_state[0]  # (n, D)

    def _to_image(self, logits: torch.FloatTensor, threshold: float) -> torch.BoolTensor:
        return self.processor.threshold_masks(logits, self._size, self._reshaped_size, threshold)


def _common_length(one: list[int], other: list[int]) -> int:
    """How many first elements two lists share."""
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return at
    return min(len(one), len(other))


def _listed(points: Any) -> list[tuple[float, float, int]] | None:
    """Points in a list, whatever they came in; None where there are none."""
    return None if points is None else [tuple(point) for point in torch.as_tensor(points).tolist()]
