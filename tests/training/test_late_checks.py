"""Options that depend on the loaded model or data are refused before the training."""

import pytest
from torch import nn
from training_runs import dataset_of, scene_row

from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.training.late_checks import check_best_metric, check_learning_rate
from gemma_lisa.training.option_checks import COMMAND_LINE, RECIPE
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments


def arguments(**options):
    return GemmaLisaTrainingArguments("out", use_cpu=True, **options)


def test_a_metric_that_the_questions_cannot_measure_is_refused():
    row = scene_row(0)
    present = [target for target in row["targets"] if target["masks"]]
    questions = EvaluationQuestions(dataset_of([{**row, "targets": present}]), with_conversations=False)
    check_best_metric(arguments(metric_for_best_model="eval_gIoU", eval_strategy="epoch"), questions)
    check_best_metric(arguments(metric_for_best_model="N-acc"), questions)  # no evaluation
    with pytest.raises(UsageError, match="metric_for_best_model N-acc: the evaluation questions do not measure it"):
        check_best_metric(arguments(metric_for_best_model="N-acc", eval_strategy="epoch"), questions)


class Parts(nn.Module):
    """A projector and a decoder with the names that they have in the whole model."""

    def __init__(self):
        super().__init__()
        self.seg_projector = nn.Linear(2, 2)
        self.sam = nn.ModuleDict({"mask_decoder": nn.Linear(2, 2)})


def test_an_unused_learning_rate_is_refused():
    rates = {"bridge_learning_rate": 1e-3, "decoder_learning_rate": 1e-3}
    given = {**dict.fromkeys(rates, COMMAND_LINE), "learning_rate": COMMAND_LINE}
    with pytest.raises(UsageError, match="learning_rate 0.5 has no effect.* bridge_learning_rate, decoder_"):
        check_learning_rate(Parts(), arguments(learning_rate=0.5, **rates), given)
    # The command line replaces the recipe's rate, which is no error
    check_learning_rate(Parts(), arguments(learning_rate=0.5, **rates), {**given, "learning_rate": RECIPE})
    del rates["decoder_learning_rate"], given["decoder_learning_rate"]
    check_learning_rate(Parts(), arguments(learning_rate=0.5, **rates), given)
