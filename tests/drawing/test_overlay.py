import numpy as np
import pytest
from PIL import Image, ImageFont

from gemma_lisa.drawing import overlay
from gemma_lisa.drawing.overlay import PALETTE, draw_answer, draw_curve, draw_overlay, draw_questions, draw_samples

GREY_VALUE = 60
PANEL_LEFTS = [overlay.SHEET_GAP + column * (overlay.PANEL + overlay.SHEET_GAP) for column in range(3)]


def grey_image(width: int = 64, height: int = 64) -> Image.Image:
    return Image.new("RGB", (width, height), (GREY_VALUE,) * 3)


def box_mask(top: int, left: int, bottom: int, right: int, height: int = 64, width: int = 64) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def colours(picture: Image.Image) -> set[tuple[int, int, int]]:
    return set(map(tuple, np.asarray(picture).reshape(-1, 3).tolist()))


def sample(**changes) -> dict:
    mask = box_mask(8, 8, 40, 40)
    fields = {
        "image": grey_image(),
        "question": "the square",
        "target": mask.astype(np.uint8),
        "prediction": mask[None],
        "answer": "Here it is.",
        "iou": 1.0,
    }
    return fields | changes


def test_the_palettes_colours_are_far_from_each_other():
    distances = [np.abs(np.subtract(a, b)).sum() for i, a in enumerate(PALETTE) for b in PALETTE[:i]]
    assert len(PALETTE) >= 10 and min(distances) > 100


def test_a_mask_is_tinted_inside_outlined_at_its_edge_and_the_rest_is_left_alone():
    overlay = np.asarray(draw_overlay(grey_image(), box_mask(16, 16, 48, 48)[None]))
    assert overlay.shape == (512, 512, 3)
    inside, edge, outside = overlay[256, 256], overlay[256, 128], overlay[40, 40]
    low, high = np.minimum(PALETTE[0], GREY_VALUE), np.maximum(PALETTE[0], GREY_VALUE)
    assert (low < inside).all() and (inside < high).all()
    assert tuple(edge) == PALETTE[0]
    assert tuple(outside) == (GREY_VALUE,) * 3


def test_each_mask_has_its_own_colour_and_its_number():
    masks = np.stack([box_mask(4, 4, 28, 28), box_mask(36, 36, 60, 60)])
    both = draw_overlay(grey_image(), masks)
    assert {PALETTE[0], PALETTE[1]} <= colours(both)
    alone = np.asarray(draw_overlay(grey_image(), masks[:1]))
    middle = (slice(100, 156), slice(100, 156))  # of the first mask, where the number stands
    assert len(colours(Image.fromarray(alone[middle]))) == 1
    assert PALETTE[0] in colours(Image.fromarray(np.asarray(both)[middle]))


def test_no_masks_leave_the_image_as_it_is():
    picture = draw_overlay(grey_image(600, 400), np.zeros((0, 400, 600), dtype=bool))
    assert picture.size == (600, 400) and colours(picture) == {(GREY_VALUE,) * 3}


def test_the_given_image_is_not_painted_on():
    image = grey_image(600, 600)
    draw_overlay(image, np.ones((1, 600, 600), dtype=bool))
    assert colours(image) == {(GREY_VALUE,) * 3}


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1, 1), (512, 512)), ((64, 48), (512, 384)), ((300, 10), (600, 20)), ((2000, 1500), (2000, 1500))],
)
def test_small_images_grow_by_a_whole_factor_and_large_ones_stay(size, expected):
    width, height = size
    assert draw_overlay(grey_image(width, height), np.ones((2, height, width), dtype=bool)).size == expected


def test_a_legend_shows_every_colour_under_the_picture():
    masks = np.stack([box_mask(0, 0, 9, 9), np.zeros((64, 64), dtype=bool), box_mask(30, 30, 60, 60)])
    picture = draw_overlay(grey_image(), masks, ["a", "empty", "a long label " * 20])
    assert picture.width == 512 and picture.height > 512
    legend = colours(picture.crop((0, 512, *picture.size)))
    assert set(PALETTE[:3]) <= legend and PALETTE[3] not in legend


def test_masks_and_texts_that_do_not_fit_are_refused():
    mask = box_mask(0, 0, 5, 5)[None]
    with pytest.raises(ValueError, match="2 labels for 1 masks"):
        draw_overlay(grey_image(), mask, ["a", "b"])
    with pytest.raises(ValueError, match="2 labels for 1 masks"):
        draw_answer(grey_image(), mask, "q", "a", ["one", "two"])
    with pytest.raises(ValueError, match=r"\(64, 32\)"):
        draw_overlay(grey_image(32, 64), mask)
    with pytest.raises(ValueError, match="no samples"):
        draw_samples([])


@pytest.mark.parametrize("text", ["a few words " * 40, "word" * 200, "one\n\ntwo", "日本語 ελληνικά العربية 🙂" * 10])
def test_text_wraps_within_its_width_and_loses_nothing(text):
    font_size, width = 16, 200
    lines = overlay._wrapped(text, font_size, width)
    assert max(ImageFont.load_default(font_size).getlength(line) for line in lines) <= width
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_an_answers_caption_stays_on_white_paper():
    image, mask = grey_image(), box_mask(8, 8, 30, 30)[None]
    short = draw_answer(image, mask, "the square", "Here it is.", ["square (0.90)"])
    long = draw_answer(image, mask, "the square " * 30, "Unbreakable" * 40, ["square (0.90)"])
    assert short.width == long.width == 512 and long.height > short.height > 512
    border = np.asarray(long)[512:, [0, 1, 2, -3, -2, -1]]
    assert (border == 255).all()
    assert PALETTE[0] in colours(short.crop((0, 512, *short.size)))


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1)])
def test_extreme_images_get_a_readable_caption(size):
    width, height = size
    picture = draw_answer(
        grey_image(width, height), np.ones((2, height, width), dtype=bool), "what?", "", ["this", "that"]
    )
    assert picture.width >= overlay.NARROWEST_CAPTION and picture.height > height


def test_a_refusal_has_no_mask_colour():
    picture = draw_answer(grey_image(), np.zeros((0, 64, 64), dtype=bool), "the star", "There is no star.", [])
    assert not set(PALETTE) & colours(picture)


def test_the_sheet_shows_target_and_prediction_beside_the_image():
    missed = sample(prediction=np.zeros((0, 64, 64), dtype=bool), iou=0.0)
    card = overlay._card(missed)
    thirds = [colours(card.crop((left, 0, left + overlay.PANEL, overlay.PANEL))) for left in PANEL_LEFTS]
    assert [PALETTE[0] in third for third in thirds] == [False, True, False]
    assert overlay.POOR in colours(card) and overlay.GOOD not in colours(card)
    assert overlay.GOOD in colours(overlay._card(sample()))


def test_ignored_pixels_are_hatched_on_the_target_only():
    target = box_mask(0, 0, 30, 30).astype(np.uint8)
    target[34:64, 34:64] = 255
    with_ignored = np.asarray(overlay._card(sample(target=target)))
    without = np.asarray(overlay._card(sample(target=(target == 1).astype(np.uint8))))
    rows, columns = np.nonzero((with_ignored != without).any(axis=2))
    left, scale = PANEL_LEFTS[1], overlay.PANEL / 64
    assert columns.min() >= left + 33 * scale and columns.max() <= left + overlay.PANEL
    assert rows.min() >= 33 * scale
    assert len({tuple(with_ignored[y, x]) for y, x in zip(rows, columns, strict=True)}) >= 2


def test_cards_stand_in_as_many_columns_as_asked_for():
    one, two = draw_samples([sample()] * 4), draw_samples([sample()] * 4, columns=2)
    assert two.width == pytest.approx(2 * one.width, rel=0.05) and two.height < 0.6 * one.height
    assert draw_samples([sample()], columns=2).size == draw_samples([sample()]).size


def test_a_question_that_asks_for_no_mask_is_not_drawn_as_one_of_what_is_not_there():
    asked = {"image": grey_image(), "question": "How many are there?", "answer": "2."}
    shown = np.asarray(draw_questions([{**asked, "masks": None}]))
    missing = np.asarray(draw_questions([{**asked, "masks": np.zeros((0, 64, 64), dtype=np.uint8)}]))
    assert shown.shape == missing.shape
    panels = [(pixels == GREY_VALUE).all(axis=-1).sum() / overlay.PANEL**2 for pixels in (shown, missing)]
    assert panels[0] == pytest.approx(2, abs=0.02) and panels[1] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (2000, 1500)])
def test_the_sheet_takes_images_of_any_size_and_samples_without_a_score(size):
    width, height = size
    mask = np.ones((height, width), dtype=bool)
    changes = {"image": grey_image(width, height), "target": mask.astype(np.uint8), "prediction": mask[None]}
    sheet = draw_samples([sample(), sample(iou=None, question="why " * 80, answer="", **changes)])
    assert sheet.width == draw_samples([sample()]).width


def test_a_thing_of_a_few_pixels_is_still_seen_on_the_sheet():
    mask = box_mask(700, 700, 708, 708, 1500, 2000)
    changes = {"image": grey_image(2000, 1500), "target": mask.astype(np.uint8), "prediction": mask[None]}
    assert PALETTE[0] in colours(overlay._card(sample(**changes)))


def test_curves_are_saved_and_no_figure_stays_open(tmp_path):
    log_history = [
        {"step": 1, "loss": 4.0, "language_loss": 2.0, "mask_bce_loss": 0.5},
        {"step": 2, "loss": 3.0, "language_loss": 1.0, "mask_bce_loss": 0.4},
        {"step": 2, "eval_gIoU": 0.5, "eval_N-acc": None, "eval_shapes_T-acc": 1.0},
        {"step": 2, "train_runtime": 3.0},
    ]
    both, losses, nothing = tmp_path / "both.png", tmp_path / "losses.png", tmp_path / "nothing.png"
    draw_curve(log_history, both)
    draw_curve(log_history[:2], str(losses))
    draw_curve([], nothing)
    assert Image.open(both).width > 1.8 * Image.open(losses).width
    assert {PALETTE[0], PALETTE[1]} <= colours(Image.open(both).convert("RGB"))
    assert Image.open(nothing).format == "PNG"
    pyplot = pytest.importorskip("matplotlib.pyplot")
    assert pyplot.get_fignums() == []
