"""Ask questions about images: `answer`, and `pipeline("reasoning-segmentation", model=…, trust_remote_code=True)`."""

import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import BatchFeature, Pipeline

from .chat_template_gemma_lisa import user_turn
from .compatibility_gemma_lisa import warn_of_unknown
from .generation_gemma_lisa import MAX_NEW_TOKENS
from .lazy_images_gemma_lisa import as_lazy, is_lazy
from .mask_decoding_gemma_lisa import loaded_device

TASK = "reasoning-segmentation"
# URLs, including data: URLs
_URL = re.compile(r"\s*([a-z][a-z0-9+.-]*://|data:)", re.IGNORECASE)
_OPTIONS = {"max_new_tokens", "threshold", "multimask_output", "encode_mask"}
_STOCK_OPTIONS = set(inspect.signature(Pipeline.__call__).parameters)


def answer(
    model,
    processor,
    questions: list[dict[str, Any]],
    max_new_tokens: int = MAX_NEW_TOKENS,
    threshold: float = 0.0,
    multimask_output: bool = False,
    encode_mask: Callable[[torch.BoolTensor], Any] | None = None,
) -> list[dict[str, Any]]:
    """Return the answer to each question. All questions are one batch, and each is a separate conversation.

    The pipeline, `predict.py` and the evaluation by generation use this function. The web page and the conversation in
    a terminal use `ImageSession`, which keeps the KV cache between questions.

    Args:
        model: a Gemma-LISA model, with or without an adapter.
        processor: its processor.
        questions: dicts of "text" and, optionally, "image" (PIL image, path or bytes), "points" and "boxes", each in
            the format of `segment` for one image. If one question has points or boxes, all must have an image.
        max_new_tokens: maximum number of tokens of an answer (default: 64).
        threshold, encode_mask: as in the processor's `post_process_segmentation`.
        multimask_output: as in `segment`.

    Returns:
        for each question a dict of text, raw_text, phrases, masks, scores, complete and status, see
        `post_process_segmentation`.

    Raises:
        ValueError: as `segment`, `apply_chat_template` and `load_rgb`.
    """
    prompts = {name: [asked.get(name) for asked in questions] for name in ("points", "boxes")}
    prompts = {name: values for name, values in prompts.items() if any(value is not None for value in values)}
    inputs = encode_questions(processor, questions, is_shared=not prompts).to(loaded_device(model, model.device))
    output = model.segment(**inputs, max_new_tokens=max_new_tokens, multimask_output=multimask_output, **prompts)
    return processor.post_process_segmentation(output, inputs, threshold, encode_mask)


def encode_questions(processor, questions: list[dict[str, Any]], is_shared: bool = True) -> BatchFeature:
    """Return the inputs of `segment` for questions, dicts as in `answer`.

    Args:
        is_shared: pass an image of several questions once, with `image_index`. This does not support points and boxes.
    """
    images = [asked["image"] for asked in questions if asked.get("image") is not None]
    unique = list({_identity(image): image for image in images}.values()) if is_shared else images
    inputs = encode_texts(processor, questions)
    if images:
        inputs |= processor.encode_images(unique)
    if len(unique) < len(images):
        places = {_identity(image): place for place, image in enumerate(unique)}
        inputs["image_index"] = index = torch.tensor([places[_identity(image)] for image in images])
        for name in ("original_sizes", "reshaped_input_sizes"):
            inputs[name] = inputs[name][index]
    return BatchFeature(inputs)


def encode_texts(processor, questions: list[dict[str, Any]]) -> dict[str, torch.LongTensor]:
    """Return input_ids, attention_mask and token_type_ids (B, L) of questions, whose images are encoded separately.

    Args:
        questions: dicts of "text", and optionally "image" and "earlier", the (question, answer) turns before it.
    """
    conversations = [messages_of(asked) for asked in questions]
    inputs = processor.pad_conversations(processor.encode_conversations(conversations, add_generation_prompt=True))
    inputs.pop("assistant_masks")
    return inputs


def messages_of(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the messages of a question: the turns before it, and the image in the first message."""
    messages, shown = [], asked.get("image")
    for question, answer in asked.get("earlier", ()):
        messages += [user_turn(question, shown), {"role": "assistant", "content": answer}]
        shown = None
    return [*messages, user_turn(asked["text"], shown)]


def _identity(image: Any) -> Any:
    """Return the content or path of a file, or the identity of another image: equal for the same image."""
    content = image.image if is_lazy(image) else image
    return content if isinstance(content, str | bytes) else id(image)


class ReasoningSegmentationPipeline(Pipeline):
    """Answer questions about images with a text and a mask for each object of the answer.

        pipe = pipeline("reasoning-segmentation", model=path, trust_remote_code=True)
        pipe(images=image, text="the red circle")

    `pipeline(...)` accepts the usual `batch_size`, `device`, `device_map` and `dtype`. It also accepts
    `max_new_tokens`, `threshold`, `multimask_output` and `encode_mask` as defaults of all calls.
    """

    # The processor contains Gemma's tokenizer and both image processors, so they are not loaded separately.
    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False

    def __init__(self, model, processor=None, **kwargs):
        if processor is None:
            raise ValueError("The pipeline needs a processor. Pass processor=… with the model.")
        # transformers has replaced the names with classes, which cannot be saved to JSON
        model.config.custom_pipelines = custom_pipelines()
        super().__init__(model=model, processor=processor, **kwargs)

    def __call__(
        self, images: Any = None, text: str | list[str] | None = None, points: Any = None, boxes: Any = None, **kwargs
    ) -> dict[str, Any] | list[dict[str, Any]] | Iterator[dict[str, Any]]:
        """Answer questions about images.

        Args:
            images: PIL image, path or bytes; or a dict of image, text and, optionally, points and boxes. Also a list,
                generator or data set of such items; generators are read lazily. URLs are not supported.
            text: question for all images, or a list with one question per image. With one image, a list of texts asks
                several questions about it.
            points: (N, 3): x, y in pixels of the image and label: 1 for a foreground point, 0 for a background point.
                For a list of images, a list with one such item, or None, per image.
            boxes: left, top, right, bottom in pixels of the image. For a list of images, one item, or None, per image.
            max_new_tokens: maximum number of tokens of an answer (default: 64).
            threshold: mask logits above it are foreground (default: 0).
            multimask_output: return the best-scored of SAM's three masks for ambiguous prompts (default: False).
            encode_mask: function that converts each mask, a bool tensor (H, W), to the value of "mask" below. Only one
                mask is in memory at a time.
            batch_size: number of questions per batch (default: 1).

        Returns:
            for one image a dict of
            text (str): the answer without `[SEG]`; raw_text (str): the answer with `[SEG]`;
            complete (bool): the model ended its turn, and the answer does not repeat itself;
            status (str): "found", "low confidence", "nothing found", "not there", "text only" or "incomplete"; see
            `answer_status`;
            segments: list of {"score": float, SAM's own estimate of the mask's IoU; "label": str, the phrase of the
                mask; "mask": PIL "L" image of 0 and 255, at the size of the upright image}.
            A list of images returns a list, a generator an iterator.

        Raises:
            ValueError: no question, an image that cannot be read, a URL, lists of different lengths, or points or
                boxes outside their image. An item of a generator raises when it is read.
        """
        if wrong := kwargs.keys() - _OPTIONS - _STOCK_OPTIONS:
            known = ", ".join(sorted({"images", "text", "points", "boxes"} | _OPTIONS))
            raise ValueError(f"The pipeline does not know {', '.join(sorted(wrong))}. Its arguments are {known}.")
        if images is None:
            raise ValueError("There is no image. Pass images=… with a PIL image, a path or bytes.")
        if isinstance(images, list | tuple) or (isinstance(text, list | tuple) and _is_one(images)):
            asked = _list_of_questions(images, text, points, boxes)
            return super().__call__(asked, **kwargs) if asked else []
        if _is_one(images):
            return super().__call__(_question(images, text, points, boxes), **kwargs)
        if isinstance(images, Dataset) and isinstance(images, Sized):
            images = map(images.__getitem__, range(len(images)))
        if not isinstance(images, Iterable) or hasattr(images, "read") or hasattr(images, "shape"):
            raise ValueError(
                f"images must be a PIL image, a path, bytes, a dict, or several of them, got {type(images).__name__}."
            )
        if isinstance(text, list | tuple) or points is not None or boxes is not None:
            raise ValueError(
                "With a generator of images, text must be one string, and points and boxes are not supported. Yield "
                'dicts of "image", "text", "points" and "boxes" instead.'
            )
        return super().__call__((_question(image, text) for image in images), **kwargs)

    def _sanitize_parameters(self, **options) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        options.pop("local_files_only", None)  # `pipeline` passes it on
        if prompts := options.keys() & {"points", "boxes"}:
            raise ValueError(
                f"{', '.join(sorted(prompts))} belong to an image. Pass them to the call, not to pipeline(...)."
            )
        warn_of_unknown("The pipeline", options.keys() - _OPTIONS)
        return {}, {name: value for name, value in options.items() if name in _OPTIONS}, {}

    def preprocess(self, question: dict[str, Any]) -> dict[str, Any]:
        """Open the image. Its pixels are decoded and the text is tokenized later, with the whole batch."""
        image = as_lazy(question["image"])
        _ = image.size  # raises for a file that cannot be opened
        return {"questions": {**question, "image": image}}

    def _forward(
        self,
        inputs: dict[str, Any],
        encode_mask: Callable[[torch.BoolTensor], Any] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        is_batch = isinstance(inputs["questions"], list)  # the loader returns a list for batch_size > 1
        questions = inputs["questions"] if is_batch else [inputs["questions"]]
        answers = answer(self.model, self.processor, questions, encode_mask=encode_mask or _picture_of, **options)
        return {"answers": answers if is_batch else answers[0]}

    def postprocess(self, outputs: dict[str, Any]) -> dict[str, Any]:
        found = outputs["answers"]
        segments = [
            {"score": float(score), "label": phrase, "mask": mask}
            for mask, score, phrase in zip(found["masks"], found["scores"], found["phrases"], strict=True)
        ]
        return {**{name: found[name] for name in ("text", "raw_text", "complete", "status")}, "segments": segments}


def custom_pipelines() -> dict[str, dict[str, Any]]:
    """Return the entry of a checkpoint's configuration with which `pipeline` finds this file."""
    place = f"{__name__.rsplit('.', 1)[-1]}.{ReasoningSegmentationPipeline.__name__}"
    return {TASK: {"impl": place, "pt": ["AutoModel"], "type": "multimodal"}}


def _picture_of(mask: torch.BoolTensor) -> Image.Image:
    return Image.fromarray(mask.numpy()).convert("L")


def _is_one(images: Any) -> bool:
    return isinstance(images, str | os.PathLike | bytes | Image.Image | dict) or is_lazy(images)


def _list_of_questions(images: Any, text: Any, points: Any, boxes: Any) -> list[dict[str, Any]]:
    """Return the questions of a call with a list of images, a list of texts, or both."""
    count = len(images) if isinstance(images, list | tuple) else len(text)
    each = {
        "images": list(images) if isinstance(images, list | tuple) else [images] * count,
        "text": list(text) if isinstance(text, list | tuple) else [text] * count,
        "points": [None] * count if points is None else list(points),
        "boxes": [None] * count if boxes is None else list(boxes),
    }
    for name, values in each.items():
        if len(values) != count:
            raise ValueError(f"Pass one item of {name} per question. Questions: {count}, {name}: {len(values)}.")
    return [_question(*values) for values in zip(*each.values(), strict=True)]


def _question(image: Any, text: str | None = None, points: Any = None, boxes: Any = None) -> dict[str, Any]:
    """Return one question as the input of `preprocess`."""
    question = {"image": image, "text": text, "points": points, "boxes": boxes}
    if isinstance(image, dict):
        if wrong := image.keys() - question.keys():
            raise ValueError(
                f"A question has unknown keys: {', '.join(sorted(map(str, wrong)))}. The keys are image, text, points "
                "and boxes."
            )
        if twice := [
            name for name, value in question.items() if name != "image" and value is not None and name in image
        ]:
            raise ValueError(f"{', '.join(twice)} is given twice: in the dict and as an argument. Remove one.")
        question |= {"image": None} | image
    if not isinstance(question["text"], str) or not question["text"].strip():
        raise ValueError("The question is empty. Pass text=… with what to look for.")
    if isinstance(question["image"], str) and (found := _URL.match(question["image"])):
        raise ValueError(
            f"URLs ({found[1]}…) are not supported. Download the image and pass it, its path or its bytes."
        )
    return question
