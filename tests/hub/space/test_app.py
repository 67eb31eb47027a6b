"""The web page as a Space: its requirements, and the model it loads."""

import runpy

import pytest
import yaml
from picture_files import ROOT

from gemma_lisa.checkpoints.loading import EXAMPLE


def test_space_requires_the_tested_versions():
    space = ROOT / "hub" / "space"
    ours = (ROOT / "requirements.txt").read_text().splitlines()
    ours = {line.split("#")[0].strip() for line in ours}
    asked_for = [line for line in (space / "requirements.txt").read_text().splitlines() if line[:1] not in ("#", "")]
    assert [line for line in asked_for if line not in ours and "git+" not in line] == []
    front = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert f"gradio=={front['sdk_version']}" in (ROOT / "constraints.txt").read_text().splitlines()
    assert (space / front["app_file"]).is_file() and front["sdk"] == "gradio"
    assert len(front["short_description"]) <= 60  # limit of the Hub


def test_blank_model_variable_is_an_error(monkeypatch):
    model_name = runpy.run_path(str(ROOT / "hub" / "space" / "app.py"))["model_name"]
    monkeypatch.delenv("MODEL", raising=False)
    assert model_name() is None
    monkeypatch.setenv("MODEL", " org/model\n")
    assert model_name() == "org/model"
    for blank in ("", " "):
        monkeypatch.setenv("MODEL", blank)
        with pytest.raises(ValueError, match="MODEL is empty"):
            model_name()


@pytest.mark.parametrize(
    ("variables", "opened", "name"),
    [
        ({}, (EXAMPLE, False), None),
        ({"MODEL": "org/model", "IN_4BIT": "1"}, ("org/model", True), "model"),
        ({"MODEL": "org/model", "IN_4BIT": "0"}, ("org/model", False), "model"),
    ],
)
def test_space_serves_the_model_of_its_variables_on_all_interfaces(monkeypatch, variables, opened, name):
    for variable in ("MODEL", "IN_4BIT"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    calls = []

    def load_checkpoint(path, load_in_4bit, device):
        calls.append((path, load_in_4bit))
        return "model", "processor"

    monkeypatch.setattr("gemma_lisa.checkpoints.loading.load_checkpoint", load_checkpoint)
    monkeypatch.setattr("gemma_lisa.interfaces.web.server.serve", lambda *args, **more: calls.append((args, more)))
    runpy.run_path(str(ROOT / "hub" / "space" / "app.py"), run_name="__main__")
    assert calls == [opened, (("model", "processor", name), {"host": "0.0.0.0", "port": 7860})]
