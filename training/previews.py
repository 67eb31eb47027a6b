"""Callback that draws the model's answers to a few held-out questions at every evaluation."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch
from transformers import TrainerCallback

from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.drawing.curve import draw_curve
from gemma_lisa.evaluation.answer_sheet import draw_answers
from gemma_lisa.evaluation.judging import judge
from gemma_lisa.evaluation.protocols import by_generation, question_of
from gemma_lisa.feature_cache.cache import FeatureCache
from gemma_lisa.images_gemma_lisa import open_image
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor
from gemma_lisa.safety.whole_files import write_whole

from .arguments import DataArguments


class PreviewCallback(TrainerCallback):
    """Writes `previews/step-NNNNNN.png` and the training curve `curve.png` in the output folder.

    Args:
        processor: processor of the training.
        samples: held-out samples (`EvaluationQuestions`) to draw.
        max_new_tokens: maximum number of tokens per answer.
        cache: features of the images; None to encode the images.
    """

    def __init__(
        self,
        processor: GemmaLisaProcessor,
        samples: list[dict],
        max_new_tokens: int,
        cache: FeatureCache | None = None,
    ):
        self.processor, self.samples, self.max_new_tokens, self.cache = processor, samples, max_new_tokens, cache

    @classmethod
    def of(
        cls,
        processor: GemmaLisaProcessor,
        questions: EvaluationQuestions,
        data_args: DataArguments,
        cache: FeatureCache | None = None,
    ) -> Self:
        """Return the callback for `preview_samples` questions, spread evenly over all."""
        count = min(data_args.preview_samples, len(questions))
        samples = [questions[at] for at in range(0, len(questions), len(questions) // count)][:count]
        return cls(processor, samples, data_args.max_new_tokens, cache)

    def on_evaluate(self, args, state, control, model, **kwargs):
        # Every rank generates, because a sharded model cannot run on one; the first one draws
        training = model.training
        model.eval()
        with torch.no_grad():
            answers = by_generation(model, self.processor, self.samples, self.max_new_tokens, self.cache)
        model.train(training)
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / "previews"
        judged = []
        for number, (sample, answer) in enumerate(zip(self.samples, answers, strict=True)):
            question = question_of(sample, number)
            judged.append(judge(question, replace(answer, id=question.id)))
        images = [sample["image"].load() for sample in self.samples]
        write_whole(folder / f"step-{state.global_step:06d}.png", draw_answers(judged, images))
        with io.BytesIO() as drawn:
            draw_curve(state.log_history, drawn)
            write_whole(Path(args.output_dir) / "curve.png", open_image(drawn))  # with the mark of the project
