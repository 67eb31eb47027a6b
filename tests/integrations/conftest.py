"""The plug-in packages of integrations/ can be imported."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "integrations"


@pytest.fixture(autouse=True)
def plugins(monkeypatch):
    """Add the plug-in to the path, and lmms-eval behind the installed packages if it is not one of them."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "lmms_eval"), *sys.path, str(ROOT / "lmms_eval/packages")])
