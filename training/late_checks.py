"""Checks of options that need the loaded model or data, before the training begins."""

import torch

from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.safety.errors import UsageError

from .trainer import groups_of, measured_scores
from .training_arguments import GemmaLisaTrainingArguments


def check_loaded(
    model: torch.nn.Module,
    questions: EvaluationQuestions,
    args: GemmaLisaTrainingArguments,
    given: dict[str, int],
) -> None:
    """Make the checks of this file.

    Args:
        questions: those of the evaluation.
        given: name of each option that was given -> `option_checks.RECIPE` or `COMMAND_LINE`.

    Raises:
        UsageError: of the first that fails.
    """
    check_best_metric(args, questions)
    check_learning_rate(model, args, given)


def check_best_metric(args: GemmaLisaTrainingArguments, questions: EvaluationQuestions) -> None:
    """Refuse a `metric_for_best_model` that these questions cannot measure.

    Raises:
        UsageError: which one, and those that they can.
    """
    if args.metric_for_best_model is None or args.eval_strategy == "no":
        return
    measured = measured_scores(questions)
    if (name := args.metric_for_best_model.removeprefix("eval_")) not in measured:
        raise UsageError(
            f"metric_for_best_model {name}: the evaluation questions do not measure it; use one of "
            f"{', '.join(sorted(measured))}."
        )


def check_learning_rate(model: torch.nn.Module, args: GemmaLisaTrainingArguments, given: dict[str, int]) -> None:
    """Refuse a `learning_rate` that no trained part has because each has its own.

    Raises:
        UsageError: which rates replace it.
    """
    own = [name for name in given if name in {f"{part}_learning_rate" for part in args.part_rates}]
    if args.muon_learning_rate is not None or given.get("learning_rate", 0) < max(map(given.get, own), default=1):
        return
    if all(args.part_rates.get(group["part"]) is not None for group in groups_of(model, args)):
        raise UsageError(
            f"learning_rate {args.learning_rate} has no effect: every trained part has a rate of its own. Change "
            f"{', '.join(own)}, or remove learning_rate."
        )
