"""The page as a Space: what it asks for, and which model it opens."""

import runpy

import pytest
import yaml
from picture_files import ROOT


def test_the_space_asks_for_what_is_tested():
    space = ROOT / "hub" / "space"
    ours = (ROOT / "requirements.txt").read_text().splitlines()
    ours = {line.split("#")[0].strip() for line in ours}
    asked_for = [line for line in (space / "requirements.txt").read_text().splitlines() if line[:1] not in ("#", "")]
    assert [line for line in asked_for if line not in ours and "git+" not in line] == []
    front = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert f"gradio=={front['sdk_version']}" in (ROOT / "constraints.txt").read_text().splitlines()
    assert (space / front["app_file"]).is_file() and front["sdk"] == "gradio"
    assert len(front["short_description"]) <= 60  # the Hub refuses a longer one


def test_the_space_refuses_a_blank_model_variable(monkeypatch):
    model_name = runpy.run_path(str(ROOT / "hub" / "space" / "app.py"))["model_name"]
    monkeypatch.delenv("MODEL", raising=False)
    assert model_name() is None
    monkeypatch.setenv("MODEL", " org/model\n")
    assert model_name() == "org/model"
    for blank in ("", " "):
        monkeypatch.setenv("MODEL", blank)
        with pytest.raises(ValueError, match="MODEL is empty"):
            model_name()
