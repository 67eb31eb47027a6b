"""Pictures of targets and predictions."""

import base64
import io

import numpy as np
import pytest
from judged_boxes import SIZE, answered, box, image_of, question
from PIL import Image

from gemma_lisa.evaluation.report.pictures import BLANK, LONG_SIDE, PREDICTION, TARGET, draw_pair


def opened(uri: str) -> np.ndarray:
    kind, _, data = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert max(picture.size) == LONG_SIDE
        return np.asarray(picture.convert("RGB")).astype(int)


def near(pixels: np.ndarray, colour: tuple[int, int, int], limit: int = 60) -> np.ndarray:
    return np.abs(pixels - colour).max(axis=-1) < limit


def test_the_target_is_blue_and_the_prediction_orange_with_the_outline_of_the_target():
    scale = LONG_SIDE / SIZE[1]
    judged = answered(question(0, [box(4, 4)]), [box(40, 20)])
    target, prediction = (opened(uri) for uri in draw_pair(judged, image_of(0)))
    left, right = (slice(int(4 * scale), int(16 * scale)),), (slice(int(40 * scale), int(52 * scale)),)
    rows = slice(int(4 * scale), int(14 * scale)), slice(int(20 * scale), int(30 * scale))
    assert near(target[rows[0], left[0]], TARGET).any() and not near(target[rows[1], right[0]], PREDICTION).any()
    assert near(prediction[rows[1], right[0]], PREDICTION).any()
    dashes = near(prediction[rows[0], left[0]], TARGET).mean()
    assert 0.01 < dashes < near(target[rows[0], left[0]], TARGET).mean()


def test_blue_and_orange_differ_in_brightness():
    luma = [np.dot(colour, (0.299, 0.587, 0.114)) for colour in (TARGET, PREDICTION)]
    assert abs(luma[0] - luma[1]) > 40


def test_without_an_image_masks_are_drawn_on_grey():
    judged = answered(question(0, [box(4, 4)]), [])
    target, _ = (opened(uri) for uri in draw_pair(judged, None))
    corner = target[-20:, -20:].reshape(-1, 3)
    assert np.ptp(corner.mean(axis=0)) < 3 and corner.mean() > BLANK[0]
    assert near(target, TARGET).any()


def test_the_ignore_region_is_striped():
    judged = answered(question(0, [box(4, 4)], ignore=box(30, 20)), [])
    with_ignore, plain = (opened(uri) for uri in draw_pair(judged, Image.new("RGB", SIZE[::-1])))
    region = slice(120, 150), slice(170, 215)
    assert with_ignore[region].std() > 3 * plain[region].std() + 5


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"boxes/test/0000#0: the image is 30 x 20 pixels .* 40 x 60"):
        draw_pair(answered(question(0, [box(4, 4)]), []), Image.new("RGB", (20, 30)))


def test_tall_and_small_images_fit():
    small = question(0, [], size=(2, 1))
    target, prediction = (opened(uri) for uri in draw_pair(answered(small), Image.new("RGB", (1, 2))))
    assert target.shape == prediction.shape == (LONG_SIDE, LONG_SIDE // 2, 3)
