"""Ask questions about images: `answer`, and `pipeline("reasoning-segmentation", model=…, trust_remote_code=True)`."""

import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import Pipeline

from .chat_template_gemma_lisa import user_turn
from .compatibility_gemma_lisa import warn_of_unknown
from .generation_gemma_lisa import MAX_NEW_TOKENS
from .images_gemma_lisa import load_rgb
from .mask_decoding_gemma_lisa import loaded_device

TASK = "reasoning-segmentation"
# Something that would have to be fetched, data: among it
_ADDRESS = re.compile(r"\s*([a-z][a-z0-9+.-]*://|data:)", re.IGNORECASE)
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
    """Return the answer to each question. Each is a conversation of its own; all are one batch.

    The pipeline, `predict.py` and the evaluation by generation ask with this function. The web page and the
    conversation in a terminal ask with `ImageSession`, which keeps the image's keys and values between questions.
    Both build a turn with `user_turn` and read an answer with the processor's `read_answer` and `threshold_masks`.

    Args:
        model: a Gemma-LISA, or one with an adapter.
        processor: its processor.
        questions: dicts of "text" and, optionally, "image" (PIL image, path or bytes), "points" and "boxes", each as
            `segment` takes it for one image. If one question has points or boxes, all must have an image.
        max_new_tokens: maximum number of tokens of an answer.
        threshold, encode_mask: as in the processor's `post_process_segmentation`.
        multimask_output: as in `segment`.

    Returns:
        for each question a dict of text, raw_text, phrases, masks, scores, complete and status, as
        `post_process_segmentation` returns it.

    Raises:
        ValueError: as `segment`, `apply_chat_template` and `load_rgb`.
    """
    conversations = [[user_turn(asked["text"], asked.get("image"))] for asked in questions]
    inputs = processor.apply_chat_template(
        conversations, add_generation_prompt=True, tokenize=True, return_dict=True
    ).to(loaded_device(model, model.device))
    prompts = {name: [asked.get(name) for asked in questions] for name in ("points", "boxes")}
    output = model.segment(
        **inputs,
        max_new_tokens=max_new_tokens,
        multimask_output=multimask_output,
        **{name: values for name, values in prompts.items() if any(value is not None for value in values)},
    )
    return processor.post_process_segmentation(output, inputs, threshold, encode_mask)


class ReasoningSegmentationPipeline(Pipeline):
    """An image and words in; a text and a mask for each thing that it points at out.

        pipe = pipeline("reasoning-segmentation", model=path, trust_remote_code=True)
        pipe(images=image, text="the red circle")

    `batch_size`, `device`, `device_map` and `dtype` are those of every pipeline. `max_new_tokens`, `threshold`,
    `multimask_output` and `encode_mask` can be given here too, for every call.
    """

    # The processor holds Gemma's tokenizer and both image processors; none of them is used alone.
    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False

    def __init__(self, model, processor=None, **kwargs):
        if processor is None:
            raise ValueError("The pipeline needs the processor beside the model; pass processor=…")
        # transformers has put classes in the place of their names there, which no file can hold
        model.config.custom_pipelines = custom_pipelines()
        super().__init__(model=model, processor=processor, **kwargs)

    def __call__(
        self, images: Any = None, text: str | list[str] | None = None, points: Any = None, boxes: Any = None, **kwargs
    ) -> dict[str, Any] | list[dict[str, Any]] | Iterator[dict[str, Any]]:
        """Ask.

        Args:
            images: PIL image, path or bytes, as `load_rgb` opens them; or a dict of image, text and, if wanted, points
                and boxes. A list of such, or a generator or data set of such, which is read as it goes. Nothing is ever
                fetched: an address is refused.
            text: what to look for in every image, or a list with one for each; one image and a list of texts asks it
                each of them.
            points: (N, 3): x, y in pixels of the image, and 1 = on the thing, 0 = beside it; of a list of images one
                such for each, or None. Likewise
            boxes: left, top, right, bottom in pixels.
            max_new_tokens: of an answer; 64.
            threshold: mask logits above it are foreground; 0.
            multimask_output: the best of SAM's three masks for what is ambiguous; False.
            encode_mask: makes "mask" below of each mask, a bool tensor (H, W); one of them is held at a time.
            batch_size: questions at once; 1.

        Returns:
            for one image a dict of
            text (str): what was said, without `[SEG]`; raw_text (str): with it;
            complete (bool): the model ended its turn, and the answer does not repeat itself;
            status (str): "found", "low confidence", "nothing found", "not there", "text only" or "incomplete"; see
            `answer_status`;
            segments: list of {"score": float, SAM's own estimate of the mask's IoU; "label": str, the words before the
                mask's `[SEG]`; "mask": PIL "L" image of 0 and 255, at the size of the upright image}.
            A list gives a list, a generator an iterator.

        Raises:
            ValueError: no question, an image that cannot be read, an address, lists of different lengths, points or
                boxes outside their image. A generator's item raises when it is come to.
        """
        if wrong := kwargs.keys() - _OPTIONS - _STOCK_OPTIONS:
            raise ValueError(f"The pipeline takes no {', '.join(sorted(wrong))}.")
        if images is None:
            raise ValueError("There is no image; pass images=…, a picture, a path or bytes.")
        if isinstance(images, list | tuple) or (isinstance(text, list | tuple) and _is_one(images)):
            count = len(images) if isinstance(images, list | tuple) else len(text)
            each = {
                "images": list(images) if isinstance(images, list | tuple) else [images] * count,
                "text": list(text) if isinstance(text, list | tuple) else [text] * count,
                "points": [None] * count if points is None else list(points),
                "boxes": [None] * count if boxes is None else list(boxes),
            }
            for name, values in each.items():
                if len(values) != count:
                    raise ValueError(f"{count} to answer but {len(values)} {name}; give one for each.")
            asked = [_question(*values) for values in zip(*each.values(), strict=True)]
            return super().__call__(asked, **kwargs) if asked else []
        if _is_one(images):
            return super().__call__(_question(images, text, points, boxes), **kwargs)
        if isinstance(images, Dataset) and isinstance(images, Sized):
            images = map(images.__getitem__, range(len(images)))
        if not isinstance(images, Iterable) or hasattr(images, "read") or hasattr(images, "shape"):
            raise ValueError(f"images is of type {type(images).__name__}; pass a picture, a path, bytes or several.")
        if isinstance(text, list | tuple) or points is not None or boxes is not None:
            raise ValueError("Beside a generator of images stands one text at most; let it give dicts with the rest.")
        return super().__call__((_question(image, text) for image in images), **kwargs)

    def _sanitize_parameters(self, **options) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        options.pop("local_files_only", None)  # of `pipeline`, which hands it on
        if prompts := options.keys() & {"points", "boxes"}:
            raise ValueError(
                f"{', '.join(sorted(prompts))} belong to an image: pass them to the call, not to pipeline."
            )
        warn_of_unknown("The pipeline", options.keys() - _OPTIONS)
        return {}, {name: value for name, value in options.items() if name in _OPTIONS}, {}

    def preprocess(self, question: dict[str, Any]) -> dict[str, Any]:
        """Opens the picture; words become tokens where the batch is, padded among their like."""
        return {"questions": {**question, "image": load_rgb(question["image"])}}

    def _forward(
        self,
        inputs: dict[str, Any],
        encode_mask: Callable[[torch.BoolTensor], Any] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        is_batch = isinstance(inputs["questions"], list)  # as the loader leaves it for batch_size > 1
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
    """What a checkpoint's configuration says of this file, so that `pipeline` finds it."""
    place = f"{__name__.rsplit('.', 1)[-1]}.{ReasoningSegmentationPipeline.__name__}"
    return {TASK: {"impl": place, "pt": ["AutoModel"], "type": "multimodal"}}


def _picture_of(mask: torch.BoolTensor) -> Image.Image:
    return Image.fromarray(mask.numpy()).convert("L")


def _is_one(images: Any) -> bool:
    return isinstance(images, str | os.PathLike | bytes | Image.Image | dict)


def _question(image: Any, text: str | None = None, points: Any = None, boxes: Any = None) -> dict[str, Any]:
    """One thing to ask, as `preprocess` takes it."""
    question = {"image": image, "text": text, "points": points, "boxes": boxes}
    if isinstance(image, dict):
        if wrong := image.keys() - question.keys():
            raise ValueError(
                f"A question holds {', '.join(sorted(map(str, wrong)))}; image, text, points and boxes are known."
            )
        if twice := [
            name for name, value in question.items() if name != "image" and value is not None and name in image
        ]:
            raise ValueError(f"{', '.join(twice)} is given twice: in the question, and beside it.")
        question |= {"image": None} | image
    if not isinstance(question["text"], str) or not question["text"].strip():
        raise ValueError("The question is empty; say in text=… what to look for.")
    if isinstance(question["image"], str) and (found := _ADDRESS.match(question["image"])):
        raise ValueError(
            f"An address ({found[1]}…) is not fetched; download the image and pass it, its path or its bytes."
        )
    return question
