"""Random and hostile requests to the endpoint get an answer, or a short error with a 4xx status."""

import base64
import importlib.util
import json

import numpy as np
import pytest
import torch
from fuzzing import WORDS, budget, leaves, values
from hypothesis import given
from hypothesis import strategies as st
from picture_files import ROOT, SCENE, huge_png
from PIL import Image

from gemma_lisa.pipeline_gemma_lisa import ReasoningSegmentationPipeline

pytestmark = pytest.mark.fuzz

LONGEST_REFUSAL = 1_000  # characters
SCENE_TEXT = base64.b64encode(SCENE.read_bytes()).decode()


def as_picture(mask: torch.BoolTensor) -> Image.Image:
    return Image.fromarray(mask.numpy().astype(np.uint8) * 255)


class MarkingPipeline(ReasoningSegmentationPipeline):
    """A pipeline that returns one mask for every question."""

    __module__ = ReasoningSegmentationPipeline.__module__  # the endpoint loads the checkpoint's code next to it

    def __init__(self):
        pass

    def __call__(self, images, text, encode_mask=as_picture, **options):
        mask = encode_mask(torch.ones(30, 40, dtype=torch.bool))
        segment = {"score": 0.5, "label": "a", "mask": mask}
        return {"text": "", "raw_text": "[SEG]", "complete": True, "segments": [segment]}


@pytest.fixture(scope="module")
def endpoint():
    spec = importlib.util.spec_from_file_location("handler", ROOT / "hub" / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.pipeline = lambda *args, **options: MarkingPipeline()
    return module.EndpointHandler("model")


images = st.one_of(
    st.just(SCENE_TEXT),
    st.just(SCENE.read_bytes()),
    st.sampled_from(
        ["http://127.0.0.1/a.png", "file:///etc/passwd", " HTTPS://x/y", "data:image/png;base64,AAAA", "\ud800"]
    ),
    st.just(base64.b64encode(huge_png()).decode()),
    st.binary(max_size=50),
    leaves,
)
texts = st.one_of(st.sampled_from(["the red circle", "[SEG]", " ", "\ud800", "x" * 100_000, *WORDS]), leaves)
numbers = st.one_of(st.integers(-5, 60), st.floats(), st.sampled_from([10**400, -(10**400), True, None, "1", "\ud800"]))
parameters = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "max_new_tokens": numbers,
            "threshold": numbers,
            "multimask_output": st.one_of(st.booleans(), leaves),
            "masks": st.one_of(st.sampled_from(["rle", "png"]), leaves),
            "points": st.one_of(st.lists(st.lists(numbers, max_size=4), max_size=4), values),
            "boxes": st.one_of(st.lists(st.lists(numbers, max_size=5), max_size=4), values, st.just([[1] * 10**5])),
            "more": values,
        },
    ),
    values,
    st.sampled_from(["[" * 100_000, '{"points": ' + "[" * 5_000, "9" * 5_000, b"\xff", '{"threshold": NaN}']),
)
requests = st.one_of(
    st.fixed_dictionaries(
        {"inputs": st.one_of(st.fixed_dictionaries({"image": images, "text": texts}), images, values)},
        optional={"parameters": parameters},
    ),
    st.fixed_dictionaries({"image": images, "text": texts}, optional={"parameters": parameters}),
    values,
)


@budget(3)
@given(requests)
def test_any_request_is_answered_or_refused_as_invalid(endpoint, request_):
    answer = endpoint(request_)
    if "error" not in answer:
        assert len(answer["masks"]) == 1
        return
    assert answer["status"] in (400, 413), answer  # never a server error
    assert answer["error"] and len(answer["error"]) <= LONGEST_REFUSAL
    json.dumps(answer).encode("ascii")


@budget()
@given(st.integers(200, 3_000), st.sampled_from(["points", "boxes", "threshold"]))
def test_nested_lists_are_refused_at_any_depth(endpoint, depth, name):
    nested = []
    for _ in range(depth):
        nested = [nested]
    answer = endpoint({"inputs": {"image": SCENE_TEXT, "text": "a"}, "parameters": {name: nested}})
    assert answer["status"] == 400 and name in answer["error"] and len(answer["error"]) <= LONGEST_REFUSAL
