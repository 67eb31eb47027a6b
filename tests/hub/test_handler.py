"""hub/handler.py: answers as the pipeline does, refuses in plain words, and lives on."""

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
    assert set(answer) == {"text", "raw_text", "complete", "status", "masks"}
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
        (asked(WHOLE, points=[[1, 2]]), 400, "points are to be numbers: [[x, y, 0 or 1]"),
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


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EndComments\nshowpage\n"
HUGE = 10**400
HOSTILE = {
    "a surrogate": (asked(WHOLE, "a \ud800 circle"), "text holds"),
    "a surrogate at the end": (asked(WHOLE, "circle\udfff"), "text holds"),
    "a surrogate in a form": (asked(WHOLE, "a circle", masks="\ud800"), "masks"),
    "a surrogate in a name": (asked(WHOLE, **{"\ud800" * 9: 1}), "hold"),
    "many tokens": (asked(WHOLE, max_new_tokens=HUGE), "max_new_tokens"),
    "few tokens": (asked(WHOLE, max_new_tokens=-HUGE), "max_new_tokens"),
    "part of a token": (asked(WHOLE, max_new_tokens=1.5), "max_new_tokens"),
    "no number of tokens": (asked(WHOLE, max_new_tokens=float("nan")), "max_new_tokens"),
    "a huge threshold": (asked(WHOLE, threshold=HUGE), "threshold"),
    "an endless threshold": (asked(WHOLE, threshold=float("-inf")), "threshold"),
    "a threshold that is true": (asked(WHOLE, threshold=True), "threshold"),
    "a threshold in bytes": (asked(WHOLE, threshold=b"1"), "threshold"),
    "a number for true": (asked(WHOLE, multimask_output=1), "multimask_output"),
    "a huge box": (asked(WHOLE, boxes=[0, 0, HUGE, 5]), "boxes"),
    "an endless box": (asked(WHOLE, boxes=[0, 0, float("inf"), 5]), "boxes"),
    "a box of no numbers": (asked(WHOLE, boxes=[0, 0, float("nan"), 5]), "boxes"),
    "a box of texts": (asked(WHOLE, boxes=["1", "2", "30", "40"]), "boxes"),
    "a box that is true": (asked(WHOLE, boxes=[False, False, True, True]), "boxes"),
    "a box turned round": (asked(WHOLE, boxes=[30, 1, 1, 30]), "left before right"),
    "a box with no pixel in float32": (asked(WHOLE, boxes=[1, 1, 1 + 1e-12, 30]), "left before right"),
    "a long box": (asked(WHOLE, boxes=[1234.5] * 1_000_000), "boxes"),
    "a deep box": (asked(WHOLE, boxes=nested(100_000)), "boxes"),
    "a box in a list": (asked(WHOLE, boxes=[[1, 1, 30, 30]]), "boxes"),
    "an empty box": (asked(WHOLE, boxes=[]), "boxes"),
    "a box that is a dict": (asked(WHOLE, boxes={"left": 1}), "boxes"),
    "deep points": (asked(WHOLE, points=nested(100_000)), "points"),
    "long points": (asked(WHOLE, points=[[1] * 1_000_000]), "points"),
    "no points": (asked(WHOLE, points=[]), "points"),
    "points outside": (asked(WHOLE, points=[[-1, 2, 1]]), "points"),
    "points without a place": (asked(WHOLE, points=[[float("nan"), 2, 1]]), "points"),
    "points of texts": (asked(WHOLE, points=["121"]), "points"),
    "a label of points": (asked(WHOLE, points=[[1, 2, 3]]), "points"),
    "deep JSON": ({"inputs": WHOLE, "parameters": "[" * 90_000}, "parameters"),
    "long JSON": ({"inputs": WHOLE, "parameters": " " * 1_000_000}, "parameters"),
    "a long number in JSON": (
        {"inputs": WHOLE, "parameters": '{"text": "a", "threshold": 1' + "0" * 9_000 + "}"},
        "param",
    ),
    "a number without end in JSON": ({"inputs": WHOLE, "parameters": '{"text": "a", "threshold": 1e999}'}, "threshold"),
    "bytes that are no text": ({"inputs": WHOLE, "parameters": b"\xff\xfe"}, "parameters"),
    "many parameters": (asked(WHOLE, **{f"{number:09d}" * 99: 0 for number in range(10_000)}), "9,997 more"),
    "many inputs": ({"inputs": {f"{number}" * 99: 0 for number in range(10_000)}}, "9,997 more"),
    "names that are no texts": (asked(WHOLE) | {"parameters": {("a",) * 1000: 1, HUGE: 2}}, "hold int, tuple"),
    "several images": ({"inputs": [WHOLE, WHOLE], "parameters": {"text": "a"}}, "image"),
    "an image in a dict": (asked({"url": "https://example.com"}), "image"),
    "a question in a list": (asked(WHOLE, ["a circle"]), "question"),
    "a data address of no picture": (asked("data:text/html;base64,PGI+"), "image"),
    "a data address without base64": (asked("data:image/png,abc"), "image"),
    "a file's address": (asked("FILE:///etc/passwd"), "image"),
    "EPS": (asked(EPS), "image"),
    "a picture of EPS": (asked(Image.open(io.BytesIO(EPS))), "image"),
    "a picture that was cut off": (asked(Image.open(io.BytesIO(WHOLE[:9_000]))), "image"),
    "a palette that is missing": (asked(picture("PNG", "P").replace(b"PLTE", b"plte")), "image"),
    "a mask's form in a list": (asked(WHOLE, masks=["rle"]), "masks"),
}


@pytest.fixture(scope="module")
def refusing(endpoint):
    """The endpoint, whose model must not be asked."""

    def fail(**options):
        pytest.fail("the request reached the model")

    class Refusing(handler.EndpointHandler):
        def __init__(self):
            self.pipe, self.images = fail, endpoint.images

    return Refusing()


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_request_is_refused_in_a_short_line_that_names_the_field(refusing, kind):
    request, field = HOSTILE[kind]
    refused = refusing(request)
    assert set(refused) == {"error", "status"} and refused["status"] in (400, 413), refused
    assert field in refused["error"] and "\n" not in refused["error"]
    assert len(json.dumps(refused)) <= 400 and refused["error"].encode("utf-8")


def saying(endpoint, monkeypatch, count):
    """Makes the model answer with so many masks, whatever it is asked."""
    model = endpoint.pipe.model
    forward = model.lm_head.forward

    def only_seg(*given, **options):
        logits = forward(*given, **options)
        logits[..., model.config.seg_token_id] = 1e9
        return logits

    monkeypatch.setattr(model.lm_head, "forward", only_seg)
    return lambda content, **parameters: endpoint(asked(content, max_new_tokens=count, **parameters))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("MAX_MASKS", 3, "more than 3 masks"),
        ("MAX_MASK_PIXELS", 3 * 40 * 30, "more than 3,600 pixels together"),
        ("MAX_ANSWER_BYTES", 10, "more than 10 bytes together"),
    ],
)
@pytest.mark.parametrize("form", ["rle", "png"])
def test_an_answer_beyond_a_limit_is_an_error_and_not_cut(endpoint, monkeypatch, name, value, words, form):
    ask = saying(endpoint, monkeypatch, 4)
    assert len(ask(picture("PNG"), masks=form)["masks"]) == 4
    monkeypatch.setattr(handler, name, value)
    refused = ask(picture("PNG"), masks=form)
    assert set(refused) == {"error", "status"} and refused["status"] == 413 and words in refused["error"]
    if name != "MAX_ANSWER_BYTES":
        assert len(saying(endpoint, monkeypatch, 3)(picture("PNG"), masks=form)["masks"]) == 3


@pytest.mark.parametrize("form", ["rle", "png"])
def test_one_mask_at_a_time_is_held_at_the_images_size(endpoint, monkeypatch, form):
    given, held = [], []

    class Counting(handler.MaskEncoder):
        def __call__(self, mask):
            given.append(weakref.ref(mask))
            held.append(sum(reference() is not None for reference in given))
            return super().__call__(mask)

    monkeypatch.setattr(handler, "MaskEncoder", Counting)
    assert len(saying(endpoint, monkeypatch, 6)(picture("PNG"), masks=form)["masks"]) == 6
    assert len(held) == 6 and max(held) <= 2  # the one before is let go as the next is made


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory in /srv/secret")])
def test_a_lack_of_memory_is_told_with_what_helps(endpoint, monkeypatch, error):
    def fail(**options):
        raise error

    monkeypatch.setattr(endpoint, "pipe", fail)
    said = "There was not enough memory for this request; send a smaller image."
    assert endpoint(asked(WHOLE)) == {"error": said, "status": 500}


@pytest.mark.parametrize("error", [ValueError("/srv/secret"), RecursionError(), KeyError("x" * 10_000)])
def test_an_unknown_fault_says_only_that_it_is_unknown(endpoint, monkeypatch, error, caplog):
    def fail(**options):
        raise error

    monkeypatch.setattr(endpoint, "pipe", fail)
    said = "The request failed for an unknown reason, which the server logged."
    assert endpoint(asked(WHOLE)) == {"error": said, "status": 500}
    assert type(error).__name__ in caplog.text


def test_html_in_the_question_is_a_question_like_others(endpoint):
    question = "<script>alert(1)</script> the red circle <img src=x onerror=alert(1)>"
    answer = endpoint(asked(WHOLE, question))
    assert "error" not in answer and "<script" not in json.dumps(answer)


def test_a_failure_inside_is_told_without_its_insides(endpoint, expected, monkeypatch, caplog):
    def fail(**options):
        raise RuntimeError("CUDA out of memory in /srv/secret")

    monkeypatch.setattr(endpoint, "pipe", fail)
    said = "The request failed for an unknown reason, which the server logged."
    assert endpoint(asked(WHOLE)) == {"error": said, "status": 500}
    assert "/srv/secret" in caplog.text
    monkeypatch.undo()
    np.testing.assert_array_equal(masks_of(endpoint(asked(WHOLE))), expected)
