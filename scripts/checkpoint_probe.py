"""What a checkpoint's own code answers under the transformers of the Python that runs this file.

    python -I -W error::FutureWarning scripts/checkpoint_probe.py FOLDER IMAGE

A session of two questions, a training step, and the model saved and opened again. Prints a line of JSON; a warning that
transformers is about to remove something that the code uses is an error.
"""

import json
import sys
import tempfile

sys.modules["gemma_lisa"] = None  # installed or not, importing it fails

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
    spoken = batch.pop("assistant_masks")
    batch["labels"] = batch["input_ids"].masked_fill(spoken == 0, -100)
    batch["mask_labels"] = [torch.ones(1, *batch["original_sizes"][0].tolist(), dtype=torch.uint8)]
    torch.manual_seed(0)  # clicks are simulated at random
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
