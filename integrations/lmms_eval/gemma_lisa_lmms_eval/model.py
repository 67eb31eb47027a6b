"""Gemma-LISA as a model of lmms-eval.

    lmms-eval --model gemma_lisa --model_args pretrained=DIR --tasks reasonseg --include_path TASKS

For the mask tasks of this package, an answer is JSON: {"masks": [RLE], "boxes": [[x, y, width, height]], "scores": [0
to 1], "text": str, "complete": bool}. For other tasks it is the text of the answer.
"""

import json
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from pycocotools import mask as coco_mask
from tqdm import tqdm

from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.evaluation.cached_answers import answer_batch

MASKS = "masks"  # value of `answer_format` in the generation_kwargs of a task
FORMAT = "answer_format"
MAX_NEW_TOKENS = 64


class GemmaLisa(lmms):
    """A checkpoint that answers one question about one image.

    Args:
        pretrained: folder or Hub name of a checkpoint, or folder of an adapter.
        adapter: folder of an adapter whose base model is now at `pretrained`.
        batch_size: number of questions per batch.
        device: such as "cuda" or "cpu" (default: the GPU of this process, or the CPU without one).
        max_new_tokens: maximum number of tokens per answer, for tasks that do not say it.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        adapter: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        max_new_tokens: int | str = MAX_NEW_TOKENS,
        **unknown: Any,
    ) -> None:
        super().__init__()
        unknown.pop("max_batch_size", None)  # always given by lmms-eval
        if unknown:
            raise ValueError(f"model_args: {', '.join(unknown)} is unknown; use pretrained, adapter, max_new_tokens.")
        self.batch_size, self.max_new_tokens = int(batch_size), int(max_new_tokens)
        self._model, self.processor = load_checkpoint(pretrained, adapter=adapter, device=device)

    @property
    def device(self):
        return self._model.device

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Return the answer to each request, in order."""
        answers: list[GenerationResult | None] = [None] * len(requests)
        groups: dict[tuple[int, bool], list[int]] = {}
        for at, request in enumerate(requests):
            given = request.args[1]
            key = (int(given.get("max_new_tokens") or self.max_new_tokens), given.get(FORMAT) == MASKS)
            groups.setdefault(key, []).append(at)
        with tqdm(total=len(requests), disable=self.rank != 0, desc="Gemma-LISA") as bar:
            for (max_new_tokens, as_masks), places in groups.items():
                for start in range(0, len(places), self.batch_size):
                    batch = places[start : start + self.batch_size]
                    asked = [self._question(requests[at]) for at in batch]
                    found = answer_batch(self._model, self.processor, asked, max_new_tokens)
                    for at, answer in zip(batch, found, strict=True):
                        text = mask_answer(answer) if as_masks else answer["text"]
                        answers[at] = GenerationResult(text, TokenCounts(output_tokens=answer["tokens"]))
                    bar.update(len(batch))
        return answers

    def _question(self, request: Instance) -> dict[str, Any]:
        """Return the text and the image of a request.

        Raises:
            ValueError: it has several images, or a video.
        """
        text, _, doc_to_visual, number, task, split = request.args
        shown = doc_to_visual(self.task_dict[task][split][number]) or []
        if len(shown) > 1 or any(not hasattr(image, "getbands") for image in shown):
            raise ValueError(f"{task}: document {number} must have at most one image and no video.")
        return {"text": text, "image": shown[0].convert("RGB") if shown else None}

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError("gemma_lisa supports only tasks with output_type generate_until.")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError("gemma_lisa supports only tasks with output_type generate_until.")


def mask_answer(answer: dict[str, Any]) -> str:
    """Return an answer of `answer_batch` as JSON."""
    masks = answer["masks"]
    content = {
        "masks": masks,
        "boxes": [coco_mask.toBbox(mask).tolist() for mask in masks],
        "scores": answer["scores"].tolist(),
        "text": answer["raw_text"],
        "complete": answer["complete"],
    }
    return json.dumps(content, ensure_ascii=False)
