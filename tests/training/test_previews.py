"""The preview callback: its pictures carry the project's mark."""

from types import SimpleNamespace

import torch
from PIL import Image

from gemma_lisa.interfaces.output_checks import is_own
from gemma_lisa.interfaces.run_folders import check_run_folder
from gemma_lisa.training import previews


def test_pictures_of_a_training_carry_the_mark(tmp_path, monkeypatch):
    monkeypatch.setattr(previews, "by_generation", lambda *_: [])
    monkeypatch.setattr(previews, "draw_answers", lambda *_: Image.new("RGB", (5, 4)))
    state = SimpleNamespace(is_world_process_zero=True, global_step=3, log_history=[{"step": 3, "loss": 1.0}])
    callback = previews.PreviewCallback(None, [], 2)
    callback.on_evaluate(SimpleNamespace(output_dir=str(tmp_path)), state, None, torch.nn.Identity())
    drawn = [tmp_path / "curve.png", tmp_path / "previews" / "step-000003.png"]
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == drawn
    assert all(is_own(path) for path in drawn)
    check_run_folder(tmp_path, [], draws=True)


def test_the_drawn_questions_are_spread_over_all():
    for wanted, expected in ((3, [0, 3, 6]), (1, [0]), (20, list(range(10)))):
        callback = previews.PreviewCallback.of(
            None, list(range(10)), SimpleNamespace(preview_samples=wanted, max_new_tokens=4)
        )
        assert callback.samples == expected
