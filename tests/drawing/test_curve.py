"""The curves of a training run."""

import pytest
from grey_pictures import colours
from PIL import Image

from gemma_lisa.drawing.curve import draw_curve
from gemma_lisa.drawing.overlay import PALETTE


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
