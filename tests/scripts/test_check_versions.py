"""check_versions.py reads the README and reports releases that fail or give different answers."""

import sys
from pathlib import Path

import pytest

from gemma_lisa.scripts import check_versions
from gemma_lisa.scripts.check_versions import check_release, check_too_old, read_block, read_packages, read_pins, run_in
from gemma_lisa.versions_gemma_lisa import cannot_run

README = "# A\n\n```bash\npip install torch pillow\n```\n\n```python\nx = 1\n```\n\n```python\nx = 2\n```\n"
EXPECTED = {"session": [{"text": "Yes.", "pixels": [3]}], "loss": 1.0}


@pytest.fixture
def answers(monkeypatch):
    """Replace programs that run in an environment: last part of their command -> output."""
    given = {"block.py": {"text": "Yes.", "pixels": [3]}, "scene.png": dict(EXPECTED)}
    monkeypatch.setattr(check_versions, "run_in", lambda python, *command: given[Path(command[-1]).name])
    monkeypatch.setattr(check_versions, "check_loading", lambda folder, python: {"AutoModel": 1})
    return given


def test_example_packages_and_pins_are_read():
    assert read_block(README) == "x = 1\n"
    assert read_packages(README) == ["torch", "pillow"]
    assert read_pins("# a==0\ntorch==2.13.0\npillow==13.0.0 # newest\n") == {"torch": "2.13.0", "pillow": "13.0.0"}


def test_code_runs_without_the_project_and_returns_its_last_line():
    code = "import sys; print('a'); print(['gemma_lisa' in sys.modules, sys.flags.isolated].__repr__().lower())"
    assert run_in(sys.executable, "-c", code) == [False, 1]


def test_the_error_is_the_last_line_of_a_failure():
    with pytest.raises(ValueError, match="^KeyError: 'there is no x'$"):
        run_in(sys.executable, "-c", "raise KeyError('there is no x')")


def test_future_warnings_are_errors():
    with pytest.raises(ValueError, match="FutureWarning: past_key_values"):
        run_in(sys.executable, "-c", "import warnings; warnings.warn('past_key_values', FutureWarning); print(1)")


def test_a_release_with_equal_answers_passes(answers):
    assert "transformers 5.20.0: passed" in check_release("python", "5.20.0", Path("exported"), EXPECTED)


@pytest.mark.parametrize(
    ("program", "answer", "message"),
    [
        ("block.py", {"text": "No.", "pixels": [3]}, "the README's example answers"),
        ("block.py", {"text": "Yes.", "pixels": [4]}, "the README's example answers"),
        ("scene.png", {**EXPECTED, "loss": 1.1}, "loss is 1.1; expected 1.0"),
        ("scene.png", {**EXPECTED, "session": []}, "session is"),
    ],
)
def test_a_release_with_different_answers_is_an_error(answers, program, answer, message):
    answers[program] = answer
    with pytest.raises(ValueError, match=f"^transformers 5.20.0: {message}"):
        check_release("python", "5.20.0", Path("exported"), EXPECTED)


def test_a_too_old_release_must_fail_with_the_same_error_in_every_way(answers):
    sentence = f"ImportError: {cannot_run(check_versions.TOO_OLD)}"
    answers["exported"] = {"AutoModel": sentence, "pipeline": sentence}
    assert check_too_old("python", Path("exported")).count("ImportError") == 0
    for other in ("no error", "ImportError: cannot import name", sentence + " (with a chained error)"):
        answers["exported"] = {"AutoModel": sentence, "pipeline": other}
        with pytest.raises(ValueError, match="pipeline gives"):
            check_too_old("python", Path("exported"))
