"""The commands of the README and the docs: each is executed, in order, in a copy of the project.

`docs_table.py` lists the commands that are not executed, with the reason. The blocks of a page run in one process
(`docs_runner.py`), on small data. A server with the Hub's API takes the place of the Hub.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import hub_server
import numpy as np
import pytest
from docs_blocks import blocks_of
from docs_table import EXECUTED
from PIL import Image, ImageDraw
from project_files import ROOT, files_of

RUNNER = ROOT / "tests" / "docs_runner.py"
SIDE = 128


@pytest.fixture
def copy(tmp_path):
    """The project's files, tracked or new, in a folder of the package's name."""
    folder = tmp_path / "gemma_lisa"
    for path in files_of(ROOT):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, folder / path, follow_symlinks=False)
    return folder


def draw_photo(path: Path, number: int) -> tuple[int, int, int, int]:
    """Write a grey image with a blue square, and return the square's box (left, top, right, bottom)."""
    box = (10 + 8 * number, 20, 58 + 8 * number, 68)
    image = Image.new("RGB", (SIDE, SIDE), (150, 150, 150))
    ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=(30, 60, 220))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return box


def write_masks(root: Path) -> None:
    """Write the layout of the README: images, and a mask per class."""
    for number in range(1, 3):
        left, top, right, bottom = draw_photo(root / "images" / f"{number}.jpg", number)
        mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
        mask[top:bottom, left:right] = 255
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(root / "masks" / f"{number}_cat.png")


def write_labelme(root: Path) -> None:
    """Write photos and LabelMe files."""
    for number in range(1, 9):
        name = f"IMG_{number:04d}"
        left, top, right, bottom = draw_photo(root / "images" / f"{name}.JPG", number)
        shape = {"label": "blue_mug", "points": [[left, top], [right, bottom]], "shape_type": "rectangle"}
        (root / "labels").mkdir(exist_ok=True)
        content = {"shapes": [shape], "imagePath": f"{name}.JPG", "imageHeight": SIDE, "imageWidth": SIDE}
        (root / "labels" / f"{name}.json").write_text(json.dumps(content))


def write_coco(root: Path) -> None:
    """Write photos and a COCO instances file."""
    images, annotations = [], []
    for number in range(1, 3):
        left, top, right, bottom = draw_photo(root / "images" / f"{number}.jpg", number)
        images.append({"id": number, "file_name": f"{number}.jpg", "height": SIDE, "width": SIDE})
        outline = [left, top, right, top, right, bottom, left, bottom]
        box = [left, top, right - left, bottom - top]
        facts = {"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "area": box[2] * box[3]}
        annotations.append({**facts, "bbox": box, "segmentation": [outline]})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "mug"}]}
    (root / "result.json").write_text(json.dumps(content))


def prepare(page: str, folder: Path) -> None:
    """Write the user's files that a page speaks of."""
    if page == "README.md":
        write_masks(folder / "my_photos")
    if page == "docs/data.md":
        write_labelme(folder / "my_photos")
        write_coco(folder / "my_coco")
        draw_photo(folder / "new_photos" / "1.jpg", 3)
    if page == "docs/runs.md":
        script = [sys.executable, "scripts/init_tiny.py", "--output", "outputs/start"]
        subprocess.run(script, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder.parent)}, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("page", EXECUTED)
def test_every_block_runs(page, copy, tmp_path):
    prepare(page, copy)
    blocks = [[block.where, block.language, block.code] for block in blocks_of(page, (ROOT / page).read_text())]
    with hub_server.serve() as server:
        environment = {**os.environ, **hub_server.environment(server, tmp_path / "home")}
        environment |= {"PYTHONPATH": str(tmp_path), "HF_DATASETS_CACHE": str(tmp_path / "cache")}
        done = subprocess.run(
            [sys.executable, RUNNER, tmp_path / "scratch"],
            **{"cwd": copy, "env": environment, "input": json.dumps(blocks), "capture_output": True, "text": True},
        )
    assert done.returncode == 0, f"{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    assert done.stderr.count(f"running {page}") == len(blocks) > 0


NOTEBOOK = "docs/use.ipynb"


def test_the_notebook_is_valid_and_has_no_outputs():
    notebook = json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4 and len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            compile("".join(cell["source"]), NOTEBOOK, "exec")


@pytest.mark.slow
def test_every_cell_of_the_notebook_runs(copy, tmp_path):
    cells = json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8"))["cells"]
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    # IPython is not installed here: count what would be displayed
    (tmp_path / "IPython").mkdir()
    (tmp_path / "IPython" / "__init__.py").write_text("")
    (tmp_path / "IPython" / "display.py").write_text("def display(shown):\n    print('shown', shown.size)\n")
    done = subprocess.run(
        [sys.executable, RUNNER, tmp_path / "scratch"],
        **{"cwd": copy, "env": {**os.environ, "PYTHONPATH": str(tmp_path)}, "capture_output": True, "text": True},
        input=json.dumps([[f"{NOTEBOOK}, cell {at}", "python", code] for at, code in enumerate(codes)]),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("shown") == 5


def commands_of(readme: str) -> list[str]:
    """Return the lines of all code blocks without their comments."""
    blocks = re.findall(r"```\w+\n(.*?)```", readme, re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def test_the_readme_in_japanese_has_the_same_commands_pages_and_pictures():
    english, japanese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ja.md"))
    assert commands_of(japanese) == commands_of(english) != []
    for pattern in (r"\]\(([^)]+)\)", r"arXiv \d{4}\.\d{5}"):
        links = (set(re.findall(pattern, text)) - {"README.md", "README.ja.md"} for text in (english, japanese))
        assert next(links) == next(links)


PAGES_WITH_LINKS = [path.relative_to(ROOT) for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]


@pytest.mark.parametrize("page", PAGES_WITH_LINKS, ids=str)
def test_every_link_leads_to_a_file_and_a_heading(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / name) if name else ROOT / page
        assert target.exists(), link
        headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, link
