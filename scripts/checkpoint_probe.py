"""Print the outputs of a checkpoint's own code with the installed version of transformers, as one line of JSON.

    python -I -W error::FutureWarning scripts/checkpoint_probe.py FOLDER IMAGE

The outputs are two answers of a session, an answer after the model was saved and loaded again, and the loss of a
training step. Warnings about features that transformers will remove are errors.
"""

import json
import sys
import tempfile

sys.modules["gemma_lisa"] = None  # importing it fails, even if it is installed

import torch  # noqa: E402
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor  # noqa: E402

folder, image = sys.argv[1:3]
QUESTIONS = ("the red circle", "all the squares")


def describe(answer):
    return {"text": answer["text"], "pixels": answer["masks"].sum(dim=(1, 2)).tolist()}


def loss_of_a_step(model, processor):
    messages = [
        {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": QUESTIONS[0]}]},
        {"role": "assistant", "content": "It is [SEG]."},
    ]
    batch = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, padding_side="right"
    )
    is_answer = batch.pop("assistant_masks")
    batch["labels"] = batch["input_ids"].masked_fill(is_answer == 0, -100)
    batch["mask_labels"] = [torch.ones(1, *batch["original_sizes"][0].tolist(), dtype=torch.uint8)]
    torch.manual_seed(0)  # the simulated prompts are random
    loss = model(**batch).loss
    loss.backward()
    missing = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    return {"loss": round(loss.item(), 4), "without_gradient": missing[:3]}


torch.set_num_threads(1)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
session = model.start(image, processor)
report = {"session": [describe(session.ask(question)) for question in QUESTIONS]}
with tempfile.TemporaryDirectory() as saved:
    for part in (model, processor):
        part.save_pretrained(saved)
    again = AutoModelForImageTextToText.from_pretrained(saved, trust_remote_code=True).eval()
    session = again.start(image, AutoProcessor.from_pretrained(saved, trust_remote_code=True))
    report["saved_again"] = describe(session.ask(QUESTIONS[0]))
print(json.dumps({**report, **loss_of_a_step(model.train(), processor)}))
