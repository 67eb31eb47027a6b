"""How the tests make a model say what they want, ask it, and read the same answer in one pass."""

from contextlib import contextmanager

import torch
import torch.nn.functional as F
from comparing import without


@contextmanager
def saying(model, processor, *answers):
    """Makes the model say the given texts, one for each conversation, then end its turn."""
    encode = processor.tokenizer.encode
    scripts = [encode(answer, add_special_tokens=False) + encode("<end_of_turn>") for answer in answers]
    steps = iter(range(1000))

    def say(module, inputs, output):
        at = next(steps)
        logits = torch.zeros_like(output)
        for row, script in enumerate(scripts):
            logits[row, -1, script[min(at, len(script) - 1)]] = 1
        return logits

    hook = model.lm_head.register_forward_hook(say)
    try:
        yield scripts
    finally:
        hook.remove()


def ask(processor, *conversations):
    return processor.apply_chat_template(
        list(conversations), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


def teacher_forced(model, inputs, sequences):
    """The model's pass over prompts with their answers: what `segment` must agree with."""
    added = sequences.shape[1] - inputs["input_ids"].shape[1]
    return model(
        **without(inputs, "input_ids", "attention_mask", "token_type_ids"),
        input_ids=sequences,
        attention_mask=F.pad(inputs["attention_mask"], (0, added), value=1),
        token_type_ids=F.pad(inputs["token_type_ids"], (0, added), value=0),
    )
