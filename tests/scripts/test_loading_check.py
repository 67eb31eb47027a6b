"""The test of a folder without this project finds different answers and broken code."""

import shutil

import pytest
from PIL import Image

from gemma_lisa.scripts.export import SCENE
from gemma_lisa.scripts.fresh_loading import check_loading


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["another mask", "broken code", "no handler"])
def test_a_folder_with_different_answers_is_an_error(published, tmp_path, damage):
    shutil.copytree(published, tmp_path / "out")
    if damage == "another mask":
        Image.new("L", Image.open(SCENE).size).save(tmp_path / "out" / "examples" / "1-1.mask-1.png")
    elif damage == "broken code":
        (tmp_path / "out" / "mask_decoding_gemma_lisa.py").write_text("import gemma_lisa\n")
    else:
        (tmp_path / "out" / "handler.py").unlink()
    words = {"another mask": "the masks for .* differ", "broken code": "gemma_lisa", "no handler": "handler"}[damage]
    with pytest.raises(ValueError, match=f"the test without this project failed: .*{words}"):
        check_loading(tmp_path / "out")
