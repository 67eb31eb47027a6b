"""versions_gemma_lisa.py: the supported releases of transformers, and other places that name them."""

import ast
import importlib
import logging
import re
import shutil

import pytest
import transformers
from picture_files import ROOT

from gemma_lisa import versions_gemma_lisa as versions
from gemma_lisa.checkpoints.model_card import Facts, card
from gemma_lisa.scripts.check_versions import CONSTRAINTS, read_block, read_packages, read_pins
from gemma_lisa.versions_gemma_lisa import HIGHEST, LOWEST, check_transformers

CODE = sorted(ROOT.glob("*_gemma_lisa.py"))


def is_one_sentence(text):
    return "\n" not in text and text.endswith(".") and re.search(r"[.!?] [A-Z]", text) is None


def as_numbers(version):
    return [int(number) for number in version.split(".")]


@pytest.fixture
def import_copy(tmp_path, monkeypatch):
    """Import a file of a copy of the code, as from a checkpoint. Each copy is a separate package."""
    monkeypatch.syspath_prepend(tmp_path)

    def import_file(name, copy="first"):
        package = tmp_path / f"{tmp_path.name}_{copy}"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").touch()
        for path in CODE:
            shutil.copy(path, package)
        importlib.invalidate_caches()
        return importlib.import_module(f"{package.name}.{name}")

    return import_file


@pytest.fixture
def warnings(monkeypatch):
    """Warnings of the code's logger, with the memory of earlier warnings cleared."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("transformers.gemma_lisa")
    logger.addHandler(handler)
    logging.Logger.warning_once.cache_clear()
    yield messages
    logger.removeHandler(handler)


def test_installed_release_is_in_the_tested_range(warnings):
    assert as_numbers(LOWEST) <= as_numbers(transformers.__version__) <= as_numbers(HIGHEST)
    check_transformers(transformers.__version__)
    assert warnings == []


@pytest.mark.parametrize("version", [LOWEST, HIGHEST, HIGHEST + ".dev0"])
def test_ends_of_the_range_give_no_warning(warnings, version):
    check_transformers(version)
    assert warnings == []


@pytest.mark.parametrize("version", ["4.57.6", "5.0.0", "5.0.0rc1", "5.9.0"])
def test_older_release_is_an_error_of_one_sentence(version):
    with pytest.raises(ImportError, match=re.escape(f"pip install transformers=={HIGHEST}")) as caught:
        check_transformers(version)
    assert is_one_sentence(str(caught.value)) and version in str(caught.value)


@pytest.mark.parametrize("version", ["5.99.0", "5.100.0.dev0", "6.0.0"])
def test_newer_release_gives_one_warning_of_one_sentence(warnings, version):
    check_transformers(version)
    check_transformers(version)
    (message,) = warnings
    assert is_one_sentence(message) and f"transformers {version} " in message and HIGHEST in message


def test_newer_release_without_a_required_name_is_an_error_of_one_sentence(warnings, monkeypatch):
    monkeypatch.delattr(transformers.models.sam.image_processing_pil_sam, "SamImageProcessorPil")
    with pytest.raises(ImportError, match="because it lacks .*SamImageProcessorPil") as caught:
        check_transformers("5.99.0")
    assert is_one_sentence(str(caught.value)) and warnings == []
    assert caught.value.__cause__ is None and caught.value.__context__ is None


# Files that transformers can import first, according to the configuration files of a checkpoint
@pytest.mark.parametrize("name", ["configuration_gemma_lisa", "processing_gemma_lisa"])
def test_code_under_an_older_release_fails_in_one_sentence(import_copy, monkeypatch, name):
    monkeypatch.setattr(transformers, "__version__", "4.57.6")
    with pytest.raises(ImportError, match="transformers 4.57.6 cannot run Gemma-LISA") as caught:
        import_copy(name)
    assert is_one_sentence(str(caught.value))
    assert caught.value.__cause__ is None and caught.value.__context__ is None


def test_copies_of_the_code_under_a_newer_release_give_one_warning(import_copy, monkeypatch, warnings):
    monkeypatch.setattr(transformers, "__version__", "5.98.0")
    for copy in ("first", "second"):
        for name in ("configuration_gemma_lisa", "processing_gemma_lisa"):
            import_copy(name, copy)
    (message,) = warnings
    assert is_one_sentence(message) and "5.98.0" in message


@pytest.mark.parametrize("name", ["configuration_gemma_lisa.py", "processing_gemma_lisa.py"])
def test_release_is_checked_before_other_imports(name):
    _, statement, *_ = ast.parse((ROOT / name).read_text(encoding="utf-8")).body  # after the docstring
    assert isinstance(statement, ast.ImportFrom) and (statement.level, statement.module) == (1, "versions_gemma_lisa")


def test_required_names_are_those_that_the_code_imports():
    imported = {}
    for path in CODE:
        if path.name == "versions_gemma_lisa.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not any(alias.name.split(".")[0] == "transformers" for alias in node.names), path.name
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module.split(".")[0] == "transformers":
                imported.setdefault(node.module, set()).update(alias.name for alias in node.names)
    # Names that exist in every release, not only in the tested ones
    imported["transformers.utils"].discard("logging")
    assert {module: set(names) for module, names in versions.NEEDED.items()} == imported


# ---------------------------------------------------------------------------------------------------------------------
# Other places that name the range
# ---------------------------------------------------------------------------------------------------------------------
def requirement(path):
    """Return the range of transformers in a requirements file: (lowest, highest)."""
    return re.search(r"^transformers>=([\d.]+),<=([\d.]+)$", path.read_text(encoding="utf-8"), re.MULTILINE).groups()


def test_requirements_of_a_published_checkpoint_are_the_tested_range():
    assert requirement(ROOT / "hub" / "requirements.txt") == (LOWEST, HIGHEST)


@pytest.mark.parametrize("name", ["requirements.txt", "hub/space/requirements.txt"])
def test_requirements_of_the_programs_are_within_the_tested_range(name):
    lowest, highest = requirement(ROOT / name)
    pinned = read_pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))["transformers"]
    assert highest == HIGHEST
    assert as_numbers(LOWEST) <= as_numbers(lowest) <= as_numbers(pinned) <= as_numbers(HIGHEST)


@pytest.mark.parametrize("name", ["README.md", "README.ja.md", "hub/space/README.md", "hub/handler.py", "docs/use.md"])
def test_pages_state_the_tested_range(name):
    page = " ".join((ROOT / name).read_text(encoding="utf-8").split())
    found = re.findall(r"transformers (\d+\.\d+\.\d+)(?: to |～)(\d+\.\d+\.\d+)", page)
    assert found and set(found) == {(LOWEST, HIGHEST)}


def test_card_states_the_tested_range():
    assert f"transformers {LOWEST} to {HIGHEST}" in " ".join(card(Facts(title="org/name")).split())


def test_newest_environment_is_that_of_the_highest_tested_release():
    pins = read_pins(CONSTRAINTS.read_text(encoding="utf-8"))
    assert pins["transformers"] == HIGHEST
    assert pins["torch"] == read_pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))["torch"]


def test_newest_environment_has_the_packages_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pins = read_pins(CONSTRAINTS.read_text(encoding="utf-8"))
    assert sorted(read_packages(readme)) == sorted(pins) == ["numpy", "pillow", "torch", "transformers"]
    imported = {
        node.module.split(".")[0] if isinstance(node, ast.ImportFrom) else node.names[0].name.split(".")[0]
        for node in ast.walk(ast.parse(read_block(readme)))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported <= {"PIL", *pins}
