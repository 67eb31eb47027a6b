"""Every test that docs/reliability.md names exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()
NAMED = sorted(set(re.findall(r"`([\w/]*test_\w+\.py)(?:::(test_\w+))?`", PAGE)))


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_named_tests_exist(file, name):
    path = ROOT / "tests" / file
    assert path.is_file()
    assert not name or f"def {name}(" in path.read_text(encoding="utf-8")


def test_the_security_policy_and_the_table_link_to_each_other():
    assert len(NAMED) > 20
    assert "docs/reliability.md" in (ROOT / "SECURITY.md").read_text()
    assert "SECURITY.md" in PAGE
