"""hub/handler.py: the same answers as the pipeline, clear errors, and no crash."""

import base64
import importlib.util
import io
import json
import weakref

import numpy as np
import pytest
import torch
from picture_files import ROOT, SCENE, huge_png
from PIL import Image
from pycocotools import mask as coco_mask

from gemma_lisa.checkpoints.loading import EXAMPLE

QUESTION = "the red circle"


def open_module():
    """Import hub/handler.py by its path, as an endpoint does."""
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
    """The masks of the pipeline for the scene, bool (K, H, W)."""
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
        "data URL": {"inputs": {**both, "image": "data:image/png;base64," + encoded(content)}},
        "base64 in lines": {"inputs": {**both, "image": base64.encodebytes(content).decode()}},
        "bytes": {"inputs": {"image": content, "text": QUESTION}},
        "a form's fields": {"image": content, "text": QUESTION.encode(), "parameters": b'{"masks": "rle"}'},
        "a picture": {"inputs": {"image": opened, "text": QUESTION}},
        "an image's body": {"inputs": opened, "parameters": {"text": QUESTION}},
        "all parameters": {"inputs": both, "parameters": {"max_new_tokens": 64, "threshold": 0, "points": None}},
    }


@pytest.mark.parametrize("kind", requests())
def test_every_kind_of_request_returns_the_masks_of_the_pipeline(endpoint, expected, kind):
    answer = endpoint(requests()[kind])
    assert set(answer) == {"text", "raw_text", "complete", "status", "masks"}
    assert "[SEG]" in answer["raw_text"] and answer["complete"] and answer["status"] in ("found", "low confidence")
    np.testing.assert_array_equal(masks_of(answer), expected)
    for mask, pixels in zip(answer["masks"], expected, strict=True):
        assert set(mask) == {"score", "label", "box", "area", "rle"}
        left, top, width, height = mask["box"]
        assert mask["area"] == pixels.sum() == pixels[top : top + height, left : left + width].sum() > 0
    assert json.loads(json.dumps(answer)) == answer


def test_masks_can_be_encoded_as_png(endpoint, expected):
    request = {"inputs": {"image": SCENE.read_bytes(), "text": QUESTION}, "parameters": {"masks": "png"}}
    (mask,) = endpoint(request)["masks"]
    found = Image.open(io.BytesIO(base64.b64decode(mask["png"])))
    assert found.format == "PNG" and found.mode == "L" and "rle" not in mask
    np.testing.assert_array_equal(np.asarray(found), expected[0] * np.uint8(255))


def test_parameters_reach_the_model(endpoint, expected):
    inputs = {"image": SCENE.read_bytes(), "text": QUESTION}
    cut = endpoint({"inputs": inputs, "parameters": {"max_new_tokens": 2}})
    assert not cut["complete"] and cut["status"] == "incomplete"
    assert endpoint({"inputs": inputs, "parameters": {"threshold": 1e6}})["status"] == "nothing found"
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
def test_rle_is_decoded_by_pycocotools(mask):
    runs = handler.encode_rle(mask)
    np.testing.assert_array_equal(coco_mask.decode(coco_mask.frPyObjects(runs, *runs["size"])), mask)
    assert sum(runs["counts"]) == mask.size and all(count > 0 for count in runs["counts"][1:])


def test_empty_mask_has_no_box():
    described = handler.describe(np.zeros((3, 4), bool), "rle")
    assert described == {"box": None, "area": 0, "rle": {"size": [3, 4], "counts": [12]}}


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
def test_unusual_image_formats_get_masks_of_their_size(endpoint, content):
    answer = endpoint({"inputs": {"image": encoded(content), "text": "a circle"}})
    assert "error" not in answer and answer["text"]
    assert all(mask["rle"]["size"] == [30, 40] for mask in answer["masks"])


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30"><circle r="9"/></svg>'
WHOLE = SCENE.read_bytes()


def asked(image, text=QUESTION, **parameters):
    return {"inputs": {"image": image, "text": text}, "parameters": parameters}


@pytest.mark.parametrize(
    ("request_", "status", "error_text"),
    [
        (asked(encoded(b"only words")), 400, "format is not supported"),
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
        (asked("https://example.com/a.png"), 400, "is a URL, which is not supported"),
        (asked("file:///etc/passwd"), 400, "is a URL, which is not supported"),
        (asked("/etc/hostname"), 400, "not valid base64"),
        (asked("not base64!"), 400, "not valid base64"),
        (asked(bytes(handler.MAX_IMAGE_BYTES + 1)), 413, "bytes"),
        (asked("A" * (2 * handler.MAX_IMAGE_BYTES)), 413, "bytes"),
        (asked(3), 400, "must be base64"),
        (asked(None), 400, "There is no image"),
        ({}, 400, "question is empty"),
        ([1], 400, "must be a JSON object"),
        (None, 400, "must be a JSON object"),
        ({"inputs": {"url": "https://example.com", "text": "a circle"}}, 400, "unknown keys: url"),
        (asked(WHOLE, temperature=1), 400, "unknown parameters: temperature"),
        (asked(WHOLE, max_new_tokens=100_000), 400, "from 1 to 256"),
        (asked(WHOLE, max_new_tokens=0), 400, "from 1 to 256"),
        (asked(WHOLE, max_new_tokens=True), 400, "must be an integer, got bool"),
        (asked(WHOLE, max_new_tokens="5"), 400, "must be an integer, got str"),
        (asked(WHOLE, threshold=float("nan")), 400, "finite"),
        (asked(WHOLE, masks="bmp"), 400, "png, rle"),
        (asked(WHOLE, boxes=[0, 0, 9999, 5]), 400, "must be inside"),
        (asked(WHOLE, boxes=["left"]), 400, "numbers"),
        (asked(WHOLE, points=[[1, 2], [3]]), 400, "numbers"),
        (asked(WHOLE, points=[[1, 2]]), 400, "points must be numbers: [[x, y, label]"),
        (asked(WHOLE, points=[[1, 2, 1]] * 1000), 413, "1,000 points"),
        ({"inputs": WHOLE, "parameters": "{"}, 400, "not valid JSON"),
        ({"inputs": WHOLE, "parameters": [1]}, 400, "must be a JSON object"),
    ],
)
def test_invalid_request_is_an_error_and_the_next_request_works(endpoint, expected, request_, status, error_text):
    refused = endpoint(request_)
    assert set(refused) == {"error", "status"}
    assert refused["status"] == status and error_text in refused["error"] and "\n" not in refused["error"]
    assert "Traceback" not in refused["error"] and len(refused["error"]) < 500
    np.testing.assert_array_equal(masks_of(endpoint(asked(WHOLE))), expected)


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EndComments\nshowpage\n"
HUGE = 10**400
HOSTILE = {
    "a surrogate": (asked(WHOLE, "a \ud800 circle"), "text contains a lone surrogate"),
    "a surrogate at the end": (asked(WHOLE, "circle\udfff"), "text contains a lone surrogate"),
    "a surrogate in a mask format": (asked(WHOLE, "a circle", masks="\ud800"), "masks"),
    "a surrogate in a name": (asked(WHOLE, **{"\ud800" * 9: 1}), "unknown parameters"),
    "many tokens": (asked(WHOLE, max_new_tokens=HUGE), "max_new_tokens"),
    "few tokens": (asked(WHOLE, max_new_tokens=-HUGE), "max_new_tokens"),
    "a fractional number of tokens": (asked(WHOLE, max_new_tokens=1.5), "max_new_tokens"),
    "NaN tokens": (asked(WHOLE, max_new_tokens=float("nan")), "max_new_tokens"),
    "a huge threshold": (asked(WHOLE, threshold=HUGE), "threshold"),
    "an infinite threshold": (asked(WHOLE, threshold=float("-inf")), "threshold"),
    "a threshold that is true": (asked(WHOLE, threshold=True), "threshold"),
    "a threshold in bytes": (asked(WHOLE, threshold=b"1"), "threshold"),
    "a number for a bool": (asked(WHOLE, multimask_output=1), "multimask_output"),
    "a huge box": (asked(WHOLE, boxes=[0, 0, HUGE, 5]), "boxes"),
    "an infinite box": (asked(WHOLE, boxes=[0, 0, float("inf"), 5]), "boxes"),
    "a box with NaN": (asked(WHOLE, boxes=[0, 0, float("nan"), 5]), "boxes"),
    "a box of strings": (asked(WHOLE, boxes=["1", "2", "30", "40"]), "boxes"),
    "a box of bools": (asked(WHOLE, boxes=[False, False, True, True]), "boxes"),
    "a box with swapped sides": (asked(WHOLE, boxes=[30, 1, 1, 30]), "left < right"),
    "a box that is empty in float32": (asked(WHOLE, boxes=[1, 1, 1 + 1e-12, 30]), "left < right"),
    "a long box": (asked(WHOLE, boxes=[1234.5] * 1_000_000), "boxes"),
    "a deep box": (asked(WHOLE, boxes=nested(100_000)), "boxes"),
    "a box in a list": (asked(WHOLE, boxes=[[1, 1, 30, 30]]), "boxes"),
    "an empty box": (asked(WHOLE, boxes=[]), "boxes"),
    "a box that is a dict": (asked(WHOLE, boxes={"left": 1}), "boxes"),
    "deep points": (asked(WHOLE, points=nested(100_000)), "points"),
    "long points": (asked(WHOLE, points=[[1] * 1_000_000]), "points"),
    "no points": (asked(WHOLE, points=[]), "points"),
    "points outside": (asked(WHOLE, points=[[-1, 2, 1]]), "points"),
    "points with NaN": (asked(WHOLE, points=[[float("nan"), 2, 1]]), "points"),
    "points of strings": (asked(WHOLE, points=["121"]), "points"),
    "an unknown label": (asked(WHOLE, points=[[1, 2, 3]]), "points"),
    "deep JSON": ({"inputs": WHOLE, "parameters": "[" * 90_000}, "parameters"),
    "long JSON": ({"inputs": WHOLE, "parameters": " " * 1_000_000}, "parameters"),
    "a long number in JSON": (
        {"inputs": WHOLE, "parameters": '{"text": "a", "threshold": 1' + "0" * 9_000 + "}"},
        "param",
    ),
    "an infinite number in JSON": ({"inputs": WHOLE, "parameters": '{"text": "a", "threshold": 1e999}'}, "threshold"),
    "bytes that are not UTF-8": ({"inputs": WHOLE, "parameters": b"\xff\xfe"}, "parameters"),
    "many parameters": (asked(WHOLE, **{f"{number:09d}" * 99: 0 for number in range(10_000)}), "9,997 more"),
    "many inputs": ({"inputs": {f"{number}" * 99: 0 for number in range(10_000)}}, "9,997 more"),
    "keys that are not strings": (
        asked(WHOLE) | {"parameters": {("a",) * 1000: 1, HUGE: 2}},
        "unknown parameters: int, tuple",
    ),
    "several images": ({"inputs": [WHOLE, WHOLE], "parameters": {"text": "a"}}, "image"),
    "an image in a dict": (asked({"url": "https://example.com"}), "image"),
    "a question in a list": (asked(WHOLE, ["a circle"]), "question"),
    "a data URL without an image": (asked("data:text/html;base64,PGI+"), "image"),
    "a data URL without base64": (asked("data:image/png,abc"), "image"),
    "a file URL": (asked("FILE:///etc/passwd"), "image"),
    "EPS": (asked(EPS), "image"),
    "a picture of EPS": (asked(Image.open(io.BytesIO(EPS))), "image"),
    "a truncated image": (asked(Image.open(io.BytesIO(WHOLE[: len(WHOLE) // 2]))), "image"),
    "a missing palette": (asked(picture("PNG", "P").replace(b"PLTE", b"plte")), "image"),
    "a mask format in a list": (asked(WHOLE, masks=["rle"]), "masks"),
}


@pytest.fixture(scope="module")
def refusing(endpoint):
    """An endpoint that fails the test if a request reaches the model."""

    def fail(**options):
        pytest.fail("the request reached the model")

    class Refusing(handler.EndpointHandler):
        def __init__(self):
            self.pipe, self.images = fail, endpoint.images

    return Refusing()


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_request_is_an_error_of_one_short_line_that_names_the_field(refusing, kind):
    request, field = HOSTILE[kind]
    refused = refusing(request)
    assert set(refused) == {"error", "status"} and refused["status"] in (400, 413), refused
    assert field in refused["error"] and "\n" not in refused["error"]
    assert len(json.dumps(refused)) <= 400 and refused["error"].encode("utf-8")


def forcing_masks(endpoint, monkeypatch, count):
    """Make the model answer every question with `count` masks."""
    model = endpoint.pipe.model
    forward = model.lm_head.forward

    def only_seg(*given, **options):
        logits = forward(*given, **options)
        logits[..., model.config.seg_token_id] = 1e9
        return logits

    monkeypatch.setattr(model.lm_head, "forward", only_seg)
    return lambda content, **parameters: endpoint(asked(content, max_new_tokens=count, **parameters))


@pytest.mark.parametrize(
    ("name", "value", "error_text"),
    [
        ("MAX_MASKS", 3, "more than 3 masks"),
        ("MAX_MASK_PIXELS", 3 * 40 * 30, "more than 3,600 pixels in total"),
        ("MAX_ANSWER_BYTES", 10, "more than 10 bytes in total"),
    ],
)
@pytest.mark.parametrize("mask_format", ["rle", "png"])
def test_answer_that_exceeds_a_limit_is_an_error(endpoint, monkeypatch, name, value, error_text, mask_format):
    ask = forcing_masks(endpoint, monkeypatch, 4)
    assert len(ask(picture("PNG"), masks=mask_format)["masks"]) == 4
    monkeypatch.setattr(handler, name, value)
    refused = ask(picture("PNG"), masks=mask_format)
    assert set(refused) == {"error", "status"} and refused["status"] == 413 and error_text in refused["error"]
    if name != "MAX_ANSWER_BYTES":
        assert len(forcing_masks(endpoint, monkeypatch, 3)(picture("PNG"), masks=mask_format)["masks"]) == 3


@pytest.mark.parametrize("mask_format", ["rle", "png"])
def test_only_one_mask_at_a_time_is_in_memory(endpoint, monkeypatch, mask_format):
    given, held = [], []

    class Counting(handler.MaskEncoder):
        def __call__(self, mask):
            given.append(weakref.ref(mask))
            held.append(sum(reference() is not None for reference in given))
            return super().__call__(mask)

    monkeypatch.setattr(handler, "MaskEncoder", Counting)
    assert len(forcing_masks(endpoint, monkeypatch, 6)(picture("PNG"), masks=mask_format)["masks"]) == 6
    assert len(held) == 6 and max(held) <= 2  # the previous mask is freed when the next one is made


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory in /srv/secret")])
def test_out_of_memory_error_suggests_a_smaller_image(endpoint, monkeypatch, error):
    def fail(**options):
        raise error

    monkeypatch.setattr(endpoint, "pipe", fail)
    message = "There was not enough memory for this request. Send a smaller image."
    assert endpoint(asked(WHOLE)) == {"error": message, "status": 500}


@pytest.mark.parametrize("error", [ValueError("/srv/secret"), RecursionError(), KeyError("x" * 10_000)])
def test_unknown_error_is_logged_but_not_shown(endpoint, monkeypatch, error, caplog):
    def fail(**options):
        raise error

    monkeypatch.setattr(endpoint, "pipe", fail)
    message = "The request failed for an unknown reason. The server has logged it."
    assert endpoint(asked(WHOLE)) == {"error": message, "status": 500}
    assert type(error).__name__ in caplog.text


def test_html_in_the_question_is_plain_text(endpoint):
    question = "<script>alert(1)</script> the red circle <img src=x onerror=alert(1)>"
    answer = endpoint(asked(WHOLE, question))
    assert "error" not in answer and "<script" not in json.dumps(answer)


def test_internal_error_shows_no_details_and_the_next_request_works(endpoint, expected, monkeypatch, caplog):
    def fail(**options):
        raise RuntimeError("CUDA out of memory in /srv/secret")

    monkeypatch.setattr(endpoint, "pipe", fail)
    message = "The request failed for an unknown reason. The server has logged it."
    assert endpoint(asked(WHOLE)) == {"error": message, "status": 500}
    assert "/srv/secret" in caplog.text
    monkeypatch.undo()
    np.testing.assert_array_equal(masks_of(endpoint(asked(WHOLE))), expected)
