"""hub/handler.py: answers as the pipeline does, refuses in plain words, and lives on."""

import base64
import importlib.util
import io
import json

import numpy as np
import pytest
from picture_files import ROOT, SCENE, huge_png
from PIL import Image
from pycocotools import mask as coco_mask

from gemma_lisa.checkpoint import EXAMPLE

QUESTION = "the red circle"


def open_module():
    """hub/handler.py, as an endpoint imports it: by its place."""
    spec = importlib.util.spec_from_file_location("handler", ROOT / "hub" / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


handler = open_module()


@pytest.fixture(scope="module")
def endpoint():
    return handler.EndpointHandler(str(EXAMPLE))


@pytest.fixture(scope="module")
def expected(endpoint):
    """The pipeline's own masks for the scene, bool (K, H, W)."""
    answer = endpoint.pipe(images=SCENE, text=QUESTION)
    return np.stack([np.asarray(segment["mask"]) > 0 for segment in answer["segments"]])


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def picture(format: str, mode: str = "RGB", size: tuple[int, int] = (40, 30), **options) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 0).save(buffer, format, **options)
    return buffer.getvalue()


def animated() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("P", (40, 30), at) for at in (1, 2, 3)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def masks_of(answer):
    return np.stack(
        [coco_mask.decode(coco_mask.frPyObjects(mask["rle"], *mask["rle"]["size"])) for mask in answer["masks"]]
    )


def requests():
    content = SCENE.read_bytes()
    opened = Image.open(SCENE)
    both = {"image": encoded(content), "text": QUESTION}
    return {
        "base64": {"inputs": both},
        "as browsers write it": {"inputs": {**both, "image": "data:image/png;base64," + encoded(content)}},
        "base64 in lines": {"inputs": {**both, "image": base64.encodebytes(content).decode()}},
        "bytes": {"inputs": {"image": content, "text": QUESTION}},
        "a form's fields": {"image": content, "text": QUESTION.encode(), "parameters": b'{"masks": "rle"}'},
        "a picture": {"inputs": {"image": opened, "text": QUESTION}},
        "an image's body": {"inputs": opened, "parameters": {"text": QUESTION}},
        "all parameters": {"inputs": both, "parameters": {"max_new_tokens": 64, "threshold": 0, "points": None}},
    }


@pytest.mark.parametrize("kind", requests())
def test_every_kind_of_request_gets_the_pipelines_masks(endpoint, expected, kind):
    answer = endpoint(requests()[kind])
    assert set(answer) == {"text", "raw_text", "complete", "masks"}
    assert "[SEG]" in answer["raw_text"] and answer["complete"]
    np.testing.assert_array_equal(masks_of(answer), expected)
    for mask, pixels in zip(answer["masks"], expected, strict=True):
        assert set(mask) == {"score", "label", "box", "area", "rle"}
        left, top, width, height = mask["box"]
        assert mask["area"] == pixels.sum() == pixels[top : top + height, left : left + width].sum() > 0
    assert json.loads(json.dumps(answer)) == answer


def test_masks_as_png(endpoint, expected):
    request = {"inputs": {"image": SCENE.read_bytes(), "text": QUESTION}, "parameters": {"masks": "png"}}
    (mask,) = endpoint(request)["masks"]
    found = Image.open(io.BytesIO(base64.b64decode(mask["png"])))
    assert found.format == "PNG" and found.mode == "L" and "rle" not in mask
    np.testing.assert_array_equal(np.asarray(found), expected[0] * np.uint8(255))


def test_parameters_reach_the_model(endpoint, expected):
    inputs = {"image": SCENE.read_bytes(), "text": QUESTION}
    assert not endpoint({"inputs": inputs, "parameters": {"max_new_tokens": 2}})["complete"]
    less = masks_of(endpoint({"inputs": inputs, "parameters": {"threshold": 2.0}}))
    assert 0 < less.sum() < expected.sum()
    plain = endpoint({"inputs": inputs})["masks"][0]["score"]
    for parameters in ({"multimask_output": True}, {"points": [[5, 5, 1]]}, {"boxes": [1, 1, 30, 30]}):
        assert endpoint({"inputs": inputs, "parameters": parameters})["masks"][0]["score"] != plain


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((3, 4), bool),
        np.ones((3, 4), bool),
        np.eye(5, dtype=bool),
        np.random.default_rng(0).random((17, 31)) > 0.5,
        np.ones((1, 1), bool),
    ],
)
def test_runs_are_those_of_coco(mask):
    runs = handler.encode_runs(mask)
    np.testing.assert_array_equal(coco_mask.decode(coco_mask.frPyObjects(runs, *runs["size"])), mask)
    assert sum(runs["counts"]) == mask.size and all(count > 0 for count in runs["counts"][1:])


def test_a_mask_without_a_pixel_has_no_box():
    segment = {"mask": Image.new("L", (4, 3), 0), "score": 0.5, "label": "it"}
    assert handler.describe(segment, "rle") == {
        **{"score": 0.5, "label": "it", "box": None, "area": 0},
        "rle": {"size": [3, 4], "counts": [12]},
    }


@pytest.mark.parametrize(
    "content",
    [
        animated(),
        picture("JPEG", "CMYK"),
        picture("PNG", "I;16"),
        picture("PNG", "RGBA"),
        picture("TIFF"),
        picture("WEBP"),
    ],
    ids=["animated GIF", "CMYK", "16 bits", "transparent", "TIFF", "WebP"],
)
def test_odd_pictures_are_answered_at_their_size(endpoint, content):
    answer = endpoint({"inputs": {"image": encoded(content), "text": "a circle"}})
    assert "error" not in answer and answer["text"]
    assert all(mask["rle"]["size"] == [30, 40] for mask in answer["masks"])


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30"><circle r="9"/></svg>'
WHOLE = SCENE.read_bytes()


def asked(image, text=QUESTION, **parameters):
    return {"inputs": {"image": image, "text": text}, "parameters": parameters}


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        (asked(encoded(b"only words")), 400, "no format of pictures"),
        (asked(""), 400, "the file is empty"),
        (asked(b""), 400, "the file is empty"),
        (asked(encoded(WHOLE[: len(WHOLE) // 2])), 400, "cannot be read"),
        (asked(encoded(huge_png(30_000, 30_000))), 413, "pixels"),
        (asked(encoded(huge_png(10_000, 10_000))), 413, "pixels"),
        (asked(Image.new("1", (10_000, 10_000))), 413, "pixels"),
        (asked(encoded(SVG)), 400, "SVG"),
        (asked(encoded(WHOLE), "x" * 100_000), 413, "100,000 characters"),
        (asked(encoded(WHOLE), ""), 400, "question is empty"),
        (asked(encoded(WHOLE), " \n"), 400, "question is empty"),
        (asked(encoded(WHOLE), 3), 400, "question is empty"),
        (asked("https://example.com/a.png"), 400, "nothing is fetched"),
        (asked("file:///etc/passwd"), 400, "nothing is fetched"),
        (asked("/etc/hostname"), 400, "no base64"),
        (asked("not base64!"), 400, "no base64"),
        (asked(bytes(handler.MAX_IMAGE_BYTES + 1)), 413, "bytes"),
        (asked("A" * (2 * handler.MAX_IMAGE_BYTES)), 413, "bytes"),
        (asked(3), 400, "is to be base64"),
        (asked(None), 400, "There is no image"),
        ({}, 400, "question is empty"),
        ([1], 400, "no JSON object"),
        (None, 400, "no JSON object"),
        ({"inputs": {"url": "https://example.com", "text": "a circle"}}, 400, "hold url"),
        (asked(WHOLE, temperature=1), 400, "hold temperature"),
        (asked(WHOLE, max_new_tokens=100_000), 400, "from 1 to 256"),
        (asked(WHOLE, max_new_tokens=0), 400, "from 1 to 256"),
        (asked(WHOLE, max_new_tokens=True), 400, "a whole number"),
        (asked(WHOLE, max_new_tokens="5"), 400, "a whole number"),
        (asked(WHOLE, threshold=float("nan")), 400, "finite"),
        (asked(WHOLE, masks="bmp"), 400, "png, rle"),
        (asked(WHOLE, boxes=[0, 0, 9999, 5]), 400, "not all inside"),
        (asked(WHOLE, boxes=["left"]), 400, "numbers"),
        (asked(WHOLE, points=[[1, 2], [3]]), 400, "numbers"),
        (asked(WHOLE, points=[[1, 2]]), 400, "points are of shape"),
        (asked(WHOLE, points=[[1, 2, 1]] * 1000), 413, "1,000 points"),
        ({"inputs": WHOLE, "parameters": "{"}, 400, "no JSON"),
        ({"inputs": WHOLE, "parameters": [1]}, 400, "no JSON object"),
    ],
)
def test_what_cannot_be_answered_is_refused_and_the_next_is_answered(endpoint, expected, request_, status, words):
    refused = endpoint(request_)
    assert set(refused) == {"error", "status"}
    assert refused["status"] == status and words in refused["error"] and "\n" not in refused["error"]
    assert "Traceback" not in refused["error"] and len(refused["error"]) < 500
    np.testing.assert_array_equal(masks_of(endpoint(asked(WHOLE))), expected)


def test_html_in_the_question_is_a_question_like_others(endpoint):
    question = "<script>alert(1)</script> the red circle <img src=x onerror=alert(1)>"
    answer = endpoint(asked(WHOLE, question))
    assert "error" not in answer and "<script" not in json.dumps(answer)


def test_a_failure_inside_is_told_without_its_insides(endpoint, expected, monkeypatch):
    def fail(**options):
        raise RuntimeError("CUDA out of memory in /srv/secret")

    monkeypatch.setattr(endpoint, "pipe", fail)
    assert endpoint(asked(WHOLE)) == {"error": "The answer failed (RuntimeError); try a smaller image.", "status": 500}
    monkeypatch.undo()
    np.testing.assert_array_equal(masks_of(endpoint(asked(WHOLE))), expected)
