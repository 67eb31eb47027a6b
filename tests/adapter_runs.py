"""Short training runs for the tests of LoRA and of quantized weights."""

import torch

from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.questions import EvaluationQuestions, TrainingQuestions
from gemma_lisa.training.trainer import GemmaLisaTrainer
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments

STEPS = 3
RANK = 4
ATTENTION = {f"self_attn.{letter}_proj.weight" for letter in "qkvo"}
MLP = {f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")}


def trainer_of(model, processor, rows, folder, **options):
    arguments = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.01,
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        **options,
    }
    return GemmaLisaTrainer(
        model=model,
        args=GemmaLisaTrainingArguments(output_dir=str(folder), **arguments),
        data_collator=GemmaLisaCollator(processor),
        train_dataset=TrainingQuestions(rows, seed=0, max_questions=2),
        eval_dataset=EvaluationQuestions(rows.select(range(2)), with_conversations=False),
        processing_class=processor,
    )


def answers_of(model, batch):
    """Return the logits and the mask logits of a batch in one flat tensor."""
    with torch.no_grad():
        output = model.eval()(**batch)
    return torch.cat([output.logits.flatten().float(), output.pred_masks.flatten().float()])


def moved_between(before, after):
    """Return the names of the parameters that are not bit-equal."""
    before, after = dict(before.named_parameters()), dict(after.named_parameters())
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def of_text(model, names):
    return {
        name
        for name, _ in model.named_parameters()
        if name.startswith("model.language_model.layers.") and name.split(".", 4)[4] in names
    }
