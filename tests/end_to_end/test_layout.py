"""The house rules that a machine can check: imports point down only, and a few words that no file may hold."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Dotted names below gemma_lisa. A folder's floor holds for each of its files that has no floor of its own.
FLOORS = {
    "versions_gemma_lisa": -3,  # below all others: it is imported before any of them
    "compatibility_gemma_lisa": -2,
    "configuration_gemma_lisa": -1,  # the foundations: names and numbers that floor 0 shares
    "losses_gemma_lisa": -1,
    "images_gemma_lisa": -1,
    "isolation_gemma_lisa": -1,
    "sam_gemma_lisa": -1,
    "fonts": -1,
    "shown": -3,
    "parsing": -2,
    "redaction": -1,
    "checksums": 0,
    "interrupts": -1,
    "session_gemma_lisa": 0,
    "generation_gemma_lisa": 0,
    "targets_gemma_lisa": 0,
    "pipeline_gemma_lisa": 0,
    "processing_gemma_lisa": 0,
    "metrics": 0,
    "drawing": 0,
    "datasets_builder.rows": 0,
    "datasets_builder.scenes": 0,
    "datasets_builder.templates": 0,
    "datasets_builder.archives": 0,
    "datasets_builder.label_maps": 0,
    "datasets_builder.coco_files": 0,
    "datasets_builder.coco_parts": 0,
    "datasets_builder.coco_segmentation": 0,
    "datasets_builder.folder_classes": 0,
    "datasets_builder.folder_files": 0,
    "datasets_builder.folder_masks": 0,
    "datasets_builder.folder_tables": 0,
    "datasets_builder.jpeg_header": 0,
    "datasets_builder.json_files": 0,
    "datasets_builder.labelme": 0,
    "datasets_builder.leakage": 0,
    "datasets_builder.multi_target": 0,
    "datasets_builder.plain_pickle": 0,
    "datasets_builder.refs_files": 0,
    "datasets_builder.rows_builder": 0,
    "modeling_gemma_lisa": 1,
    "optimizers": 0,
    "bases": 0,
    "adapters": 1,
    "sam_checkpoint": 0,
    "records": 0,
    "repository": 1,
    "collator": 1,
    "datasets_builder": 1,
    "datasets_builder.__main__": 4,
    "answers": 1,
    "checkpoint": 2,
    "chat": 2,
    "protocols": 2,
    "previews": 3,
    "parallel": 2,
    "pushing": 2,
    "run_folder": 1,
    "small_files": 1,
    "run_safety": 2,
    "run_lock": 2,
    "self_check": 3,
    "trainer": 3,
    "command_line": 0,
    "outputs": 2,
    "training_arguments": 1,
    "training_options": 1,
    "option_checks": 3,
    "arguments": 4,
    "train": 5,
    "eval": 4,
    "predict": 4,
    "app": 4,
    "web": 3,
    "web.words": 0,
    "web.layers": 1,
    "scripts": 4,
    "benchmarks": 5,
    "hub": 4,
}
PROGRAMS = {"train", "eval", "predict", "app"}
SAME_FLOOR_FOLDERS = {"datasets_builder", "web", "scripts", "benchmarks"}
HUB_SUFFIX = "_gemma_lisa"
HUB_PACKAGES = {"transformers", "torch", "numpy", "PIL"} | set(sys.stdlib_module_names)
BUILDERS_NEVER_IMPORT = {"transformers", "tokenizers"}

# Written in pieces, so that this file does not hold what it looks for.
FORBIDDEN_TEXT = {
    "a package registry's host": re.compile(
        r"\b(?:test\.)?py" + r"pi\.org|python" + r"hosted\.org|npm" + r"js\.org|download\.py" + r"torch\.org"
    ),
    # Alice is nobody: the name for examples of paths that must not leave a machine
    "an absolute path of one machine": re.compile(r"(?<![\w.~}-])/(?:home|root|work|Users)" + r"/(?!alice\b)[\w.]"),
}


def project_files(suffix: str = "") -> list[str]:
    """The project's files as paths from its root: tracked, or new and not ignored; links to others are not counted."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so nothing says which files are the project's")
    # A checkout that belongs to another user is still only listed, so trusting it is safe.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    paths = {path for path in listing.split("\0") if path.endswith(suffix)}
    return sorted(path for path in paths if (ROOT / path).is_file() and not (ROOT / path).is_symlink())


def floor_of(module: str) -> int | None:
    """The floor of a dotted name below gemma_lisa, or None when it has none."""
    return FLOORS.get(module, FLOORS.get(module.split(".")[0]) if "." in module else None)


def asks_if_available(node: ast.AST) -> bool:
    """Whether a node is `if is_..._available():`."""
    test = node.test if isinstance(node, ast.If) else None
    return isinstance(test, ast.Call) and re.fullmatch(r"is_\w+_available", ast.unparse(test.func)) is not None


def imports_of(path: str, tree: ast.AST) -> list[tuple[int, str, str | None, bool]]:
    """(line, name as written, dotted name below gemma_lisa or None for other packages, relative) of every import."""
    package = ["gemma_lisa", *path.split("/")[:-1]]
    written: list[tuple[int, str, bool]] = []
    guarded = {id(part) for node in ast.walk(tree) if asks_if_available(node) for part in node.body}
    for node in ast.walk(tree):
        if id(node) in guarded:  # transformers itself does not ask for these
            continue
        if isinstance(node, ast.Import):
            written += [(node.lineno, alias.name, False) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = [*base, *(node.module.split(".") if node.module else [])]
            written += [(node.lineno, ".".join([*prefix, alias.name]), node.level > 0) for alias in node.names]

    found = []
    for line, name, relative in written:
        module = None
        if name.split(".")[0] == "gemma_lisa":
            # `gemma_lisa.trainer.GemmaLisaTrainer` -> `trainer`: the longest beginning that has a floor of its own
            parts = name.split(".")[1:]
            beginnings = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
            module = next((beginning for beginning in beginnings if beginning in FLOORS), ".".join(parts[:1]))
        found.append((line, name, module, relative))
    return found


def floor_complaints(path: str, source: str) -> list[str]:
    """What `source`, lying at `path` below the root, breaks of the floors: one sentence each."""
    module = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    folder = module.split(".")[0]
    floor = floor_of(module)
    if floor is None:
        return [f"{path}: has no floor; give {module!r} one in FLOORS (tests/test_floors.py) and in docs/design.md"]
    travels = module.endswith(HUB_SUFFIX)

    complaints = []
    for line, name, target, relative in imports_of(path, ast.parse(source, path)):
        where = f"{path}:{line}"
        if target is None:
            top = name.split(".")[0]
            if top in {known.split(".")[0] for known in FLOORS}:
                complaints.append(f"{where}: imports {name} by its bare name; write gemma_lisa.{name}")
            elif travels and top not in HUB_PACKAGES:
                complaints.append(f"{where}: a Hub file imports {top}, which the Hub's user may not have")
            elif folder == "datasets_builder" and top in BUILDERS_NEVER_IMPORT:
                complaints.append(f"{where}: a builder imports {top}; builders know no tokenizer")
            continue

        target_floor = floor_of(target)
        target_folder = target.split(".")[0]
        if target_floor is None:
            complaints.append(f"{where}: imports {name}, which has no floor")
        elif target in PROGRAMS:
            complaints.append(f"{where}: imports the program {target}; nobody imports a program")
        elif travels and not (relative and target.endswith(HUB_SUFFIX) and target_floor < floor):
            complaints.append(f"{where}: a Hub file imports {name}; only Hub files of a lower floor, relatively")
        elif target_floor > floor or (
            target_floor == floor and not (folder == target_folder and folder in SAME_FLOOR_FOLDERS)
        ):
            complaints.append(f"{where}: floor {floor} imports {target} of floor {target_floor}; imports point down")
    return complaints


def careless_code(path: str, source: str) -> list[str]:
    """Calls of `.cuda()` and exceptions swallowed whole."""
    complaints = []
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "cuda":
            complaints.append(f"{path}:{node.lineno}: .cuda() names a device; use .to(device)")
        if isinstance(node, ast.ExceptHandler) and isinstance(node.body[0], ast.Pass):
            caught = node.type.id if isinstance(node.type, ast.Name) else node.type
            if caught in (None, "Exception", "BaseException"):
                complaints.append(f"{path}:{node.lineno}: swallows every exception")
    return complaints


def test_imports_point_down_only():
    sources = {path: (ROOT / path).read_text() for path in project_files(".py") if not path.startswith("tests/")}
    sources.pop("__init__.py")  # empty, see below
    complaints = [line for path, source in sources.items() for line in floor_complaints(path, source)]
    assert not complaints, "\n".join(complaints)


def test_the_package_itself_is_empty():
    assert (ROOT / "__init__.py").read_text() == ""


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("metrics.py", "from gemma_lisa.trainer import GemmaLisaTrainer", "imports point down"),
        ("collator.py", "from .trainer import GemmaLisaTrainer", "imports point down"),
        ("collator.py", "def f():\n    from gemma_lisa import modeling_gemma_lisa", "imports point down"),
        ("metrics.py", "import gemma_lisa.drawing", "imports point down"),
        ("datasets_builder/rows.py", "from .mixture import Mixture", "imports point down"),
        ("datasets_builder/coco.py", "from ..collator import Collator", "imports point down"),
        ("scripts/demo.py", "from gemma_lisa.train import main", "nobody imports a program"),
        ("eval.py", "from gemma_lisa import predict", "nobody imports a program"),
        ("modeling_gemma_lisa.py", "from .metrics import giou", "a Hub file imports"),
        ("modeling_gemma_lisa.py", "from gemma_lisa.losses_gemma_lisa import bce_loss", "relatively"),
        ("pipeline_gemma_lisa.py", "from .modeling_gemma_lisa import GemmaLisaOutput", "lower floor"),
        ("processing_gemma_lisa.py", "import pycocotools.mask", "may not have"),
        ("datasets_builder/coco.py", "from transformers import AutoTokenizer", "no tokenizer"),
        ("eval.py", "from metrics import giou", "bare name"),
        ("eval.py", "from gemma_lisa.attic import giou", "has no floor"),
        ("attic.py", "", "has no floor; give 'attic' one"),
        ("attic/old.py", "", "has no floor; give 'attic.old' one"),
    ],
)
def test_an_import_that_breaks_the_floors_is_found(path, source, complaint):
    (found,) = floor_complaints(path, source)
    assert complaint in found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("modeling_gemma_lisa.py", "import torch\nfrom .losses_gemma_lisa import bce_loss"),
        ("processing_gemma_lisa.py", "import math\nfrom PIL import Image\nfrom transformers import ProcessorMixin"),
        ("trainer.py", "import peft\nfrom gemma_lisa.collator import Collator"),
        ("datasets_builder/coco.py", "from datasets import Dataset\nfrom . import rows\nfrom .mixture import Mixture"),
        ("datasets_builder/__init__.py", "from .rows import Row\nfrom gemma_lisa.datasets_builder.coco import load"),
        ("scripts/demo.py", "from gemma_lisa.scripts.init_checkpoint import main\nfrom gemma_lisa.trainer import X"),
    ],
)
def test_an_import_that_points_down_is_let_through(path, source):
    assert floor_complaints(path, source) == []


def test_no_file_names_a_registry_or_a_path_of_one_machine():
    complaints = []
    for path in project_files():
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture or weights
        for what, pattern in FORBIDDEN_TEXT.items():
            complaints += [f"{path}: names {what}: {match.group()}" for match in pattern.finditer(text)]
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("pip install -i https://py" + "pi.org/simple", "a package registry's host"),
        ("https://files.python" + "hosted.org/x.whl", "a package registry's host"),
        ("--data_dir /home" + "/ada/coco", "an absolute path of one machine"),
        ('open("/work' + '/x.json")', "an absolute path of one machine"),
    ],
)
def test_a_forbidden_text_is_found(text, what):
    assert FORBIDDEN_TEXT[what].search(text)


def test_a_web_address_is_no_path_of_one_machine():
    assert not FORBIDDEN_TEXT["an absolute path of one machine"].search("https://example.com/home" + "/page ~/work/x")


def test_no_code_names_a_device_or_swallows_every_exception():
    complaints = [line for path in project_files(".py") for line in careless_code(path, (ROOT / path).read_text())]
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize(
    "source",
    ["model.cuda()", "try:\n    f()\nexcept:\n    pass", "try:\n    f()\nexcept Exception:\n    pass"],
)
def test_careless_code_is_found(source):
    assert careless_code("made_up.py", source)


def test_no_requirements_file_asks_for_torchvision():
    paths = [path for path in project_files(".txt") if re.match(r"(requirements|constraints)", Path(path).name)]
    assert {"requirements.txt", "constraints.txt"} <= set(paths)
    for path in paths:
        for line in (ROOT / path).read_text().splitlines():
            assert "torchvision" not in line.split("#")[0], f"{path}: {line}"
