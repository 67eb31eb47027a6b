"""scripts/check_versions.py: what it reads from README, and what it does where a release fails or answers otherwise."""

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
    """What stands for the programs that are run in an environment: by the last part of their command."""
    given = {"block.py": {"text": "Yes.", "pixels": [3]}, "scene.png": dict(EXPECTED)}
    monkeypatch.setattr(check_versions, "run_in", lambda python, *command: given[Path(command[-1]).name])
    monkeypatch.setattr(check_versions, "check_loading", lambda folder, python: {"AutoModel": 1})
    return given


def test_readme_is_read_as_it_stands():
    assert read_block(README) == "x = 1\n"
    assert read_packages(README) == ["torch", "pillow"]
    assert read_pins("# a==0\ntorch==2.13.0\npillow==13.0.0 # newest\n") == {"torch": "2.13.0", "pillow": "13.0.0"}


def test_code_runs_without_the_project_and_its_last_line_is_read():
    code = "import sys; print('a'); print(['gemma_lisa' in sys.modules, sys.flags.isolated].__repr__().lower())"
    assert run_in(sys.executable, "-c", code) == [False, 1]


def test_failure_is_told_by_its_last_line():
    with pytest.raises(ValueError, match="^KeyError: 'there is no x'$"):
        run_in(sys.executable, "-c", "raise KeyError('there is no x')")


def test_use_of_what_transformers_will_remove_is_a_failure():
    with pytest.raises(ValueError, match="FutureWarning: past_key_values"):
        run_in(sys.executable, "-c", "import warnings; warnings.warn('past_key_values', FutureWarning); print(1)")


def test_release_that_answers_alike_passes(answers):
    assert "transformers 5.20.0: README's block" in check_release("python", "5.20.0", Path("exported"), EXPECTED)


@pytest.mark.parametrize(
    ("program", "answer", "message"),
    [
        ("block.py", {"text": "No.", "pixels": [3]}, "README's block answers"),
        ("block.py", {"text": "Yes.", "pixels": [4]}, "README's block answers"),
        ("scene.png", {**EXPECTED, "loss": 1.1}, "loss is 1.1, expected 1.0"),
        ("scene.png", {**EXPECTED, "session": []}, "session is"),
    ],
)
def test_release_that_answers_otherwise_is_named(answers, program, answer, message):
    answers[program] = answer
    with pytest.raises(ValueError, match=f"^transformers 5.20.0: {message}"):
        check_release("python", "5.20.0", Path("exported"), EXPECTED)


def test_old_release_must_fail_in_the_one_sentence_each_way(answers):
    sentence = f"ImportError: {cannot_run(check_versions.TOO_OLD)}"
    answers["exported"] = {"AutoModel": sentence, "pipeline": sentence}
    assert check_too_old("python", Path("exported")).count("ImportError") == 0
    for other in ("no error", "ImportError: cannot import name", sentence + " (with another error behind it)"):
        answers["exported"] = {"AutoModel": sentence, "pipeline": other}
        with pytest.raises(ValueError, match="pipeline gives"):
            check_too_old("python", Path("exported"))
