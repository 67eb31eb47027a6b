"""Helpers for tests of generation: force answers, ask questions, and compute answers in one forward pass."""

from contextlib import contextmanager

import torch
import torch.nn.functional as F
from comparing import without


@contextmanager
def forced_answers(model, processor, *answers):
    """Make the model generate the given texts, one for each conversation, and then end its turn."""
    encode = processor.tokenizer.encode
    scripts = [encode(answer, add_special_tokens=False) + encode("<end_of_turn>") for answer in answers]
    steps = iter(range(1000))

    def force(module, inputs, output):
        at = next(steps)
        logits = torch.zeros_like(output)
        for row, script in enumerate(scripts):
            logits[row, -1, script[min(at, len(script) - 1)]] = 1
        return logits

    hook = model.lm_head.register_forward_hook(force)
    try:
        yield scripts
    finally:
        hook.remove()


def ask(processor, *conversations):
    return processor.apply_chat_template(
        list(conversations), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


def teacher_forced(model, inputs, sequences):
    """Return the output of one forward pass with prompts and answers, which `segment` must reproduce."""
    added = sequences.shape[1] - inputs["input_ids"].shape[1]
    return model(
        **without(inputs, "input_ids", "attention_mask", "token_type_ids"),
        input_ids=sequences,
        attention_mask=F.pad(inputs["attention_mask"], (0, added), value=1),
        token_type_ids=F.pad(inputs["token_type_ids"], (0, added), value=0),
    )
