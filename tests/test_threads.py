"""One model, several threads: every answer is the one that a thread alone gets."""

import base64
import importlib.util
import io
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from picture_files import ROOT, SCENE
from PIL import Image
from transformers import AutoModel, AutoProcessor, pipeline

from gemma_lisa.checkpoint import EXAMPLE

QUESTIONS = ["the red circle", "all the squares", "all the blue triangles", "the green square"]
THREADS, CALLS = 8, 20


def open_handler():
    """hub/handler.py, as an endpoint imports it: by its place."""
    spec = importlib.util.spec_from_file_location("handler", ROOT / "hub" / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(EXAMPLE))


@pytest.fixture(scope="module")
def ways():
    """Four ways to ask one model, each as a function of (picture, question) to (words, areas of the masks)."""
    processor = AutoProcessor.from_pretrained(EXAMPLE, trust_remote_code=True)
    model = AutoModel.from_pretrained(EXAMPLE, trust_remote_code=True).eval()
    pipe = pipeline("reasoning-segmentation", model=str(EXAMPLE), trust_remote_code=True)
    handler = open_handler()
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

    return [segment, session, by_pipeline, by_handler]


@pytest.mark.slow
def test_threads_get_the_answers_of_one_thread_alone(ways):
    scene = Image.open(SCENE).convert("RGB")
    pictures = [scene, scene.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    expected = {
        (way, side, question): ways[way](pictures[side], question)
        for way in range(len(ways))
        for side in (0, 1)
        for question in QUESTIONS
    }
    assert len({str(answer) for answer in expected.values()}) > len(QUESTIONS)  # the answers differ, or all are right

    def work(thread):
        wrong = []
        for call in range(CALLS):
            asked = ((thread + call) % len(ways), thread % 2, QUESTIONS[(3 * thread + call // 4) % len(QUESTIONS)])
            way, side, question = asked
            try:
                found = ways[way](pictures[side], question)
            except Exception as error:
                found = error
            if found != expected[asked]:
                wrong.append((asked, found, expected[asked]))
        return wrong

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)  # threads interrupt each other far more often than they would
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            wrong = [found for thread in pool.map(work, range(THREADS)) for found in thread]
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []
