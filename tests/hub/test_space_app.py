"""The Space: which checkpoint it opens, and where its page is served."""

import runpy

import pytest
from picture_files import ROOT

from gemma_lisa.checkpoints.loading import EXAMPLE

SPACE = str(ROOT / "hub" / "space" / "app.py")


@pytest.mark.parametrize(
    ("variables", "opened", "in_4bit", "shown"),
    [
        ({}, EXAMPLE, False, None),
        ({"MODEL": "org/model"}, "org/model", False, "model"),
        ({"MODEL": "org/model", "IN_4BIT": "1"}, "org/model", True, "model"),
    ],
)
def test_the_space_serves_the_model_that_its_variables_name(monkeypatch, variables, opened, in_4bit, shown):
    for name in ("MODEL", "IN_4BIT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    loaded, served = [], []

    def load(path, load_in_4bit, device):
        loaded.append((path, load_in_4bit))
        return "the model", "the processor"

    monkeypatch.setattr("gemma_lisa.checkpoints.loading.load_checkpoint", load)
    monkeypatch.setattr("gemma_lisa.interfaces.web.server.serve", lambda *given, **where: served.append((given, where)))
    runpy.run_path(SPACE, run_name="__main__")
    assert loaded == [(opened, in_4bit)]
    assert served == [(("the model", "the processor", shown), {"host": "0.0.0.0", "port": 7860})]
