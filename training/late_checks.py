"""Check options that depend on the loaded model or data, before the training starts."""

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
    """Run the checks of this file.

    Args:
        questions: questions of the evaluation.
        given: name of each given option -> `option_checks.RECIPE` or `COMMAND_LINE`.

    Raises:
        UsageError: for the first check that fails.
    """
    check_best_metric(args, questions)
    check_learning_rate(model, args, given)


def check_best_metric(args: GemmaLisaTrainingArguments, questions: EvaluationQuestions) -> None:
    """Refuse a `metric_for_best_model` that the questions cannot measure.

    Raises:
        UsageError: they cannot; with the scores that they can measure.
    """
    if args.metric_for_best_model is None or args.eval_strategy == "no":
        return
    measured = measured_scores(questions)
    if (name := args.metric_for_best_model.removeprefix("eval_")) not in measured:
        raise UsageError(
            f"metric_for_best_model {name}: the evaluation questions do not measure it. Use one of "
            f"{', '.join(sorted(measured))}."
        )


def check_learning_rate(model: torch.nn.Module, args: GemmaLisaTrainingArguments, given: dict[str, int]) -> None:
    """Refuse a `learning_rate` that is not used because every trained part has its own rate.

    Raises:
        UsageError: it is not used; with the rates that replace it.
    """
    own = [name for name in given if name in {f"{part}_learning_rate" for part in args.part_rates}]
    if args.muon_learning_rate is not None or given.get("learning_rate", 0) < max(map(given.get, own), default=1):
        return
    if all(args.part_rates.get(group["part"]) is not None for group in groups_of(model, args)):
        raise UsageError(
            f"learning_rate {args.learning_rate} has no effect: every trained part has its own rate. Change "
            f"{', '.join(own)}, or remove learning_rate."
        )
