"""Compare the answers of a session with those of stateless calls, with given or generated tokens."""

from contextlib import contextmanager

import torch


def stateless(model, processor, messages, **options):
    inputs = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    output = model.segment(**inputs, **options)
    return processor.post_process_segmentation(output, inputs)[0], output


def turn(question, image=None):
    text = {"type": "text", "text": question}
    return {"role": "user", "content": [text] if image is None else [{"type": "image", "image": image}, text]}


def assert_same(answer, expected):
    assert {name: answer[name] for name in ("text", "raw_text", "phrases", "complete", "status")} == {
        name: expected[name] for name in ("text", "raw_text", "phrases", "complete", "status")
    }
    assert torch.equal(answer["masks"], expected["masks"])
    torch.testing.assert_close(answer["scores"], expected["scores"], rtol=1e-4, atol=1e-5)


def ask_both(script, session, messages, **options):
    """Return a session's answer for a script, after checking that it is equal to that of a stateless call."""
    with scripted(session.model, script):
        found = session.ask(messages[-1]["content"][-1]["text"], **options)
    with scripted(session.model, script):
        expected, _ = stateless(session.model, session.processor, messages, **options)
    assert_same(found, expected)
    return found


@contextmanager
def scripted(model, script):
    """Make the model generate these tokens for every input."""
    steps = iter(script)

    def force(module, inputs, output):
        logits = torch.zeros_like(output)
        logits[:, -1, next(steps)] = 1
        return logits

    hook = model.lm_head.register_forward_hook(force)
    try:
        yield
    finally:
        hook.remove()
