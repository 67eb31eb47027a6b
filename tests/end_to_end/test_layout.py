"""Rules of the project: imports, sizes and locations of files, and forbidden texts."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from project_files import ROOT, files_of, project_files

HUB_SUFFIX = "_gemma_lisa"
HUB_PACKAGES = {"transformers", "torch", "numpy", "PIL"} | set(sys.stdlib_module_names)

# Written in parts, so that this file does not match its own patterns
FORBIDDEN_TEXT = {
    "a package registry's host": re.compile(
        r"\b(?:test\.)?py" + r"pi\.org|python" + r"hosted\.org|npm" + r"js\.org|download\.py" + r"torch\.org"
    ),
    # "alice" is the user name in examples of local paths
    "an absolute path of one machine": re.compile(r"(?<![\w.~}-])/(?:home|root|work|Users)" + r"/(?!alice\b)[\w.]"),
}


def asks_if_available(node: ast.AST) -> bool:
    """Return whether a node is `if is_..._available():`."""
    test = node.test if isinstance(node, ast.If) else None
    return isinstance(test, ast.Call) and re.fullmatch(r"is_\w+_available", ast.unparse(test.func)) is not None


def hub_import_errors(path: str, source: str) -> list[str]:
    """Return one line for each import of a Hub file that its users may not have."""
    errors = []
    tree = ast.parse(source, path)
    guarded = {id(part) for node in ast.walk(tree) if asks_if_available(node) for part in node.body}
    for node in ast.walk(tree):
        if id(node) in guarded:  # optional in transformers too
            continue
        if isinstance(node, ast.ImportFrom) and node.level:
            names = [] if (node.module or "").endswith(HUB_SUFFIX) else [f".{node.module or ''}"]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            if name.split(".")[0] not in HUB_PACKAGES:
                errors.append(f"{path}:{node.lineno}: a Hub file imports {name}, which its users may not have")
    return errors


def careless_code(path: str, source: str) -> list[str]:
    """Return one line for each call of `.cuda()` and each `except` that ignores every exception."""
    errors = []
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "cuda":
            errors.append(f"{path}:{node.lineno}: .cuda() is a fixed device; use .to(device)")
        if isinstance(node, ast.ExceptHandler) and isinstance(node.body[0], ast.Pass):
            caught = node.type.id if isinstance(node.type, ast.Name) else node.type
            if caught in (None, "Exception", "BaseException"):
                errors.append(f"{path}:{node.lineno}: ignores every exception")
    return errors


def test_imports_follow_the_contracts_of_pyproject_toml():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "3 kept, 0 broken" in done.stdout


def test_hub_files_import_only_each_other_and_required_packages():
    paths = [path for path in project_files(".py") if path.endswith(f"{HUB_SUFFIX}.py") and "/" not in path]
    assert len(paths) > 10
    errors = [line for path in paths for line in hub_import_errors(path, (ROOT / path).read_text())]
    assert not errors, "\n".join(errors)


def test_the_init_file_of_the_package_is_empty():
    assert (ROOT / "__init__.py").read_text() == ""


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("from .evaluation.metrics import giou", ".evaluation.metrics"),
        ("from . import collator", "."),
        ("from gemma_lisa.losses_gemma_lisa import bce_loss", "gemma_lisa.losses_gemma_lisa"),
        ("def f():\n    import pycocotools.mask", "pycocotools.mask"),
    ],
)
def test_forbidden_imports_of_a_hub_file_are_found(source, named):
    (found,) = hub_import_errors("modeling_gemma_lisa.py", source)
    assert f"imports {named}, which" in found


@pytest.mark.parametrize(
    "source",
    [
        "import math\nfrom PIL import Image\nfrom .losses_gemma_lisa import bce_loss",
        "if is_bitsandbytes_available():\n    import bitsandbytes",
    ],
)
def test_allowed_imports_of_a_hub_file_are_accepted(source):
    assert hub_import_errors("modeling_gemma_lisa.py", source) == []


def test_no_file_contains_a_registry_or_a_local_path():
    errors = []
    for path in project_files():
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # an image or weights
        for what, pattern in FORBIDDEN_TEXT.items():
            errors += [f"{path}: contains {what}: {match.group()}" for match in pattern.finditer(text)]
    assert not errors, "\n".join(errors)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("pip install -i https://py" + "pi.org/simple", "a package registry's host"),
        ("https://files.python" + "hosted.org/x.whl", "a package registry's host"),
        ("--data_dir /home" + "/ada/coco", "an absolute path of one machine"),
        ('open("/work' + '/x.json")', "an absolute path of one machine"),
    ],
)
def test_forbidden_texts_are_found(text, what):
    assert FORBIDDEN_TEXT[what].search(text)


def test_a_url_is_not_a_local_path():
    assert not FORBIDDEN_TEXT["an absolute path of one machine"].search("https://example.com/home" + "/page ~/work/x")


def test_no_code_uses_a_fixed_device_or_ignores_every_exception():
    errors = [line for path in project_files(".py") for line in careless_code(path, (ROOT / path).read_text())]
    assert not errors, "\n".join(errors)


@pytest.mark.parametrize(
    "source",
    ["model.cuda()", "try:\n    f()\nexcept:\n    pass", "try:\n    f()\nexcept Exception:\n    pass"],
)
def test_fixed_devices_and_ignored_exceptions_are_found(source):
    assert careless_code("made_up.py", source)


def test_no_requirements_file_contains_torchvision():
    paths = [path for path in project_files(".txt") if re.match(r"(requirements|constraints)", Path(path).name)]
    assert {"requirements.txt", "constraints.txt"} <= set(paths)
    for path in paths:
        for line in (ROOT / path).read_text().splitlines():
            assert "torchvision" not in line.split("#")[0], f"{path}: {line}"


# ---------------------------------------------------------------------------------------------------------------------
# Size and location of files
# ---------------------------------------------------------------------------------------------------------------------
MAX_TOP_LEVEL_FILES, MAX_LINES, MAX_FUNCTION_LINES = 26, 400, 60
# Tables of command-line arguments, and of the page's widgets
TABLES = {"build_page"}
# Folder of tests that do not belong to one source file
END_TO_END = "tests/end_to_end/"


def place_of_tests(source: str) -> str:
    """Return the test file of a source file: training/trainer.py has tests/training/test_trainer.py."""
    folder, _, name = source.rpartition("/")
    return "/".join(part for part in ("tests", folder, f"test_{name.replace('__main__', 'main')}") if part)


def long_functions(path: str, source: str) -> list[str]:
    """Return one line for each function of a file that is too long."""
    return [
        f"{path}:{node.lineno}: {node.name} has {lines} lines, at most {MAX_FUNCTION_LINES} are allowed"
        for node in ast.walk(ast.parse(source, path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in TABLES
        if (lines := node.end_lineno - node.lineno + 1) > MAX_FUNCTION_LINES
    ]


def test_the_root_folder_has_few_python_files():
    assert len([path for path in project_files(".py") if "/" not in path]) <= MAX_TOP_LEVEL_FILES


def test_no_file_or_function_is_too_long():
    errors = []
    for path in project_files(".py"):
        source = (ROOT / path).read_text()
        if (lines := source.count("\n")) > MAX_LINES:
            errors.append(f"{path}: has {lines} lines, at most {MAX_LINES} are allowed")
        errors += long_functions(path, source)
    assert not errors, "\n".join(errors)


def test_long_functions_are_found():
    source = "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES
    assert long_functions("made_up.py", source) == ["made_up.py:1: f has 61 lines, at most 60 are allowed"]


def test_every_source_file_has_its_test_file():
    paths = set(project_files(".py"))
    sources = {path for path in paths if not path.startswith("tests/") and not path.endswith("__init__.py")}
    # One file tests all benchmarks
    sources = {path for path in sources if not path.startswith("benchmarks/")}
    missing = sorted(
        f"{path}: expected {place_of_tests(path)}" for path in sources if place_of_tests(path) not in paths
    )
    assert not missing, "\n".join(missing)


def test_every_test_file_has_its_source_file_or_is_an_end_to_end_test():
    paths = project_files(".py")
    places = {place_of_tests(path).removesuffix(".py") for path in paths if not path.startswith("tests/")}
    tests = [path for path in paths if re.match(r"tests/(.*/)?test_", path) and not path.startswith(END_TO_END)]
    strays = [
        path
        for path in tests
        if not any(path.removesuffix(".py") == place or path.startswith(f"{place}_") for place in places)
    ]
    assert strays == ["tests/benchmarks/test_benchmarks.py"]


def test_every_folder_of_the_package_is_installed():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    # Integrations are packages of their own
    others = ("tests/", "integrations/")
    folders = {path.rpartition("/")[0] for path in project_files("__init__.py") if not path.startswith(others)}
    assert sorted(packages) == sorted(".".join(["gemma_lisa", *folder.split("/")]).rstrip(".") for folder in folders)


def test_docs_design_md_names_every_file():
    page = (ROOT / "docs" / "design.md").read_text()
    section = page.split("## Layout")[1].split("\n## ")[0]
    outside = ("tests/", "examples/", "benchmarks/", "hub/")
    paths = [path for path in project_files(".py") if not path.startswith(outside) and not path.endswith("__init__.py")]
    missing = [path for path in paths if f"`{path.split('/')[-1]}`" not in section]
    assert not missing, missing
    gone = [name for name in re.findall(r"`(\w+\.py)`", section) if not any(p.split("/")[-1] == name for p in paths)]
    assert not gone, gone


def test_imports_that_break_a_contract_are_found(tmp_path):
    package = tmp_path / "gemma_lisa"
    for path in project_files(".py"):
        if not path.startswith(("tests/", "benchmarks/", "hub/", "examples/")):
            (package / path).parent.mkdir(parents=True, exist_ok=True)
            (package / path).write_text((ROOT / path).read_text())
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for path, imported in (
        ("evaluation/metrics.py", "gemma_lisa.training.trainer"),
        ("datasets_builder/templates.py", "gemma_lisa.processing_gemma_lisa"),
        ("eval.py", "gemma_lisa.predict"),
    ):
        with (package / path).open("a") as file:
            file.write(f"\nimport {imported}\n")
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and "0 kept, 3 broken" in done.stdout
    for broken in ("evaluation.metrics -> gemma_lisa.training.trainer", "datasets_builder.templates ->", "eval ->"):
        assert f"gemma_lisa.{broken}" in done.stdout, broken


def test_tests_that_docs_design_md_names_exist():
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs" / "design.md").read_text())
    tests = "".join((ROOT / path).read_text() for path in project_files(".py") if path.startswith("tests/"))
    assert len(named) > 10 and [name for name in named if f"def {name}(" not in tests] == []


def test_files_that_load_a_processor_import_each_other_directly():
    # Releases before 5.0 copy only direct imports of the first file, and must reach the error about versions
    imports = {
        path: set(re.findall(r"^from \.(\w+)", (ROOT / path).read_text(), re.MULTILINE))
        for path in project_files(f"{HUB_SUFFIX}.py")
    }
    for name in ("configuration_gemma_lisa.py", "processing_gemma_lisa.py"):
        direct = imports[name]
        assert all(imports[f"{other}.py"] <= direct for other in direct), name
    assert "versions_gemma_lisa" in imports["processing_gemma_lisa.py"]


def test_without_git_the_files_are_those_that_git_lists(tmp_path):
    kept = {".gitignore", "a.py", "docs/build.md", "sub/packages/b.py", "tests/outputs/c.py"}
    ignored = {
        ".venv/lib/site.py",
        "build/d.py",
        "gemma_lisa.egg-info/e.txt",
        "integrations/lmms_eval/packages/lmms_eval/f.py",
        "outputs/g.py",
        "run.log",
        "sub/__pycache__/h.pyc",
        "sub/i.pyc",
    }
    for path in kept | ignored:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    shutil.copy(ROOT / ".gitignore", tmp_path)
    assert set(files_of(tmp_path)) == kept
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    assert set(files_of(tmp_path)) == kept
