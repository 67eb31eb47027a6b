"""Ask one model from several threads with the code of its folder, and print answers that differ from a single thread.

python -I tests/ask_from_threads.py FOLDER HANDLER PICTURE
"""

import base64
import importlib.util
import io
import json
import sys
from concurrent.futures import ThreadPoolExecutor

sys.modules["gemma_lisa"] = None  # importing it fails, even if it is installed

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import AutoModel, AutoProcessor, pipeline  # noqa: E402

FOLDER, HANDLER, PICTURE = sys.argv[1:]
QUESTIONS = ["the red circle", "all the squares", "all the blue triangles", "the green square"]
THREADS, CALLS = 8, 20

torch.set_num_threads(1)
processor = AutoProcessor.from_pretrained(FOLDER, trust_remote_code=True)
model = AutoModel.from_pretrained(FOLDER, trust_remote_code=True).eval()
pipe = pipeline("reasoning-segmentation", model=FOLDER, trust_remote_code=True)
spec = importlib.util.spec_from_file_location("handler", HANDLER)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
handler = module.EndpointHandler(FOLDER)
for asked in (pipe, handler.pipe):
    asked.model, asked.processor = model, processor


def segment(picture, question):
    content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    (answer,) = processor.post_process_segmentation(model.segment(**inputs), inputs)
    return answer["raw_text"], [int(mask.sum()) for mask in answer["masks"]]


def session(picture, question):
    answer = model.start(picture, processor).ask(question)
    return answer["raw_text"], [int(mask.sum()) for mask in answer["masks"]]


def by_pipeline(picture, question):
    answer = pipe(images=picture, text=question)
    return answer["raw_text"], [int((np.asarray(part["mask"]) > 0).sum()) for part in answer["segments"]]


def by_handler(picture, question):
    file = io.BytesIO()
    picture.save(file, "PNG")
    answer = handler({"inputs": {"image": base64.b64encode(file.getvalue()).decode(), "text": question}})
    return answer["raw_text"], [mask["area"] for mask in answer["masks"]]


WAYS = [segment, session, by_pipeline, by_handler]
scene = Image.open(PICTURE).convert("RGB")
PICTURES = [scene, scene.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
EXPECTED = {
    (way, side, question): WAYS[way](PICTURES[side], question)
    for way in range(len(WAYS))
    for side in (0, 1)
    for question in QUESTIONS
}


def work(thread):
    wrong = []
    for call in range(CALLS):
        asked = ((thread + call) % len(WAYS), thread % 2, QUESTIONS[(3 * thread + call // 4) % len(QUESTIONS)])
        way, side, question = asked
        try:
            found = WAYS[way](PICTURES[side], question)
        except Exception as error:
            found = repr(error)
        if found != EXPECTED[asked]:
            wrong.append(f"{WAYS[way].__name__} {question}: {found}, expected {EXPECTED[asked]}")
    return wrong


sys.setswitchinterval(1e-4)  # much more frequent thread switches than usual
with ThreadPoolExecutor(THREADS) as pool:
    wrong = [line for lines in pool.map(work, range(THREADS)) for line in lines]
report = {"calls": THREADS * CALLS, "answers": len({str(answer) for answer in EXPECTED.values()}), "wrong": wrong}
print(json.dumps({**report, "module": type(model).__module__}))
