"""A folder of PNG masks named by question."""

import numpy as np
import pytest
from PIL import Image
from prediction_writers import LEFT, RIGHT, small_benchmark, truth, write_pngs

from gemma_lisa.datasets_builder.rows import encode_mask
from gemma_lisa.evaluation.prediction_files.mask_folder import mask_files, read_mask_folder, read_masks


def saved(tmp_path, values, mode=None):
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    (image if mode is None else image.convert(mode)).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


@pytest.mark.parametrize("in_one_folder", [False, True])
def test_files_are_named_by_the_id_as_a_path_or_as_in_a_url(tmp_path, in_one_folder):
    benchmark = small_benchmark()
    entries = read_mask_folder(write_pngs(tmp_path, benchmark, truth, in_one_folder), benchmark.knows)
    found = {benchmark.index_of(entry.name): entry.masks for entry in entries}
    assert found == {index: question.targets for index, question in enumerate(benchmark)}


def test_masks_of_a_folder_are_in_the_order_of_their_numbers(tmp_path):
    folder = tmp_path / "small" / "test" / "2.jpg#0"
    folder.mkdir(parents=True)
    for number in (10, 9, 0):
        Image.fromarray(np.full((4, 6), number == 9, np.uint8)).save(folder / f"mask_{number}.png")
    (entry,) = read_mask_folder(tmp_path, small_benchmark().knows)
    assert entry.name == "small/test/2.jpg#0" and len(entry.masks) == 1  # the other two are empty
    assert [path.name for path in mask_files(tmp_path)] == ["mask_0.png", "mask_9.png", "mask_10.png"]


def test_zeros_say_that_nothing_is_in_the_image(tmp_path):
    assert read_masks(saved(tmp_path, np.zeros((4, 6), np.uint8))) == ((4, 6), [])


@pytest.mark.parametrize("mode", [None, "1", "RGB", "RGBA", "LA", "P", "I;16"])
def test_one_value_is_one_mask_in_every_mode(tmp_path, mode):
    path = saved(tmp_path, LEFT * 255, mode if mode != "I;16" else None)
    if mode == "I;16":
        path = saved(tmp_path, LEFT.astype(np.uint16) * 4000)
    assert read_masks(path) == (LEFT.shape, [encode_mask(LEFT)])


def test_the_values_1_to_k_are_k_masks(tmp_path):
    assert read_masks(saved(tmp_path, LEFT + 2 * RIGHT)) == (LEFT.shape, [encode_mask(LEFT), encode_mask(RIGHT)])
    palette = Image.fromarray(LEFT + 2 * RIGHT, "L").convert("P")
    palette.putdata((LEFT + 2 * RIGHT).ravel().tolist())
    palette.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    assert read_masks(saved(tmp_path, palette)) == (LEFT.shape, [encode_mask(LEFT), encode_mask(RIGHT)])


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (LEFT * 255 + RIGHT * 128, r"the pixels have the values \[128, 255\]; a mask must have 0 and one other value"),
        (np.stack([LEFT * 255, LEFT * 9, LEFT], axis=-1), "the mask has colors; save it in greyscale"),
        (np.stack([LEFT] * 3 + [RIGHT], axis=-1), "the mask is partly transparent; save it in greyscale"),
    ],
)
def test_files_that_are_no_masks_are_named(tmp_path, values, problem):
    path = saved(tmp_path, values)
    with pytest.raises(ValueError, match=f"^{path}: {problem}"):
        read_masks(path)


def test_damaged_and_other_files_are_named(tmp_path):
    (tmp_path / "mask.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing else")
    with pytest.raises(ValueError, match=f"^{tmp_path}/mask.png cannot be read"):
        read_masks(tmp_path / "mask.png")
    (tmp_path / "mask.png").write_bytes(b"")
    with pytest.raises(ValueError, match=f"^{tmp_path}/mask.png cannot be read .the file is empty"):
        read_mask_folder(tmp_path, lambda name: True)
    (tmp_path / ".DS_Store").touch()
    assert len(mask_files(tmp_path)) == 1
    (tmp_path / "mask.npy").touch()
    with pytest.raises(ValueError, match=r"mask.npy: a folder of predictions must contain PNG masks only"):
        mask_files(tmp_path)


@pytest.mark.parametrize("other", ["small/test/3#0/0.png", "small%2Ftest%2F3%230.png"])
def test_two_files_of_one_question_are_an_error(tmp_path, other):
    for name in ("small/test/3#0.png", other):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(LEFT).save(path)
    with pytest.raises(ValueError, match="has masks of the same question; remove one of them"):
        read_mask_folder(tmp_path, small_benchmark().knows)


@pytest.mark.parametrize("kind", ["loop", "folder", "broken", "itself"])
def test_links_that_are_not_to_a_file_are_refused(tmp_path, kind):
    saved(tmp_path, LEFT)
    link = tmp_path / "link.png"
    (tmp_path.parent / f"{tmp_path.name}_beside").mkdir()
    to = {"loop": tmp_path, "folder": tmp_path.parent / f"{tmp_path.name}_beside", "broken": "none.png", "itself": link}
    link.symlink_to(to[kind])
    with pytest.raises(ValueError, match=f"^{link}: a link to a folder, or a broken link, is not supported"):
        mask_files(tmp_path)


def test_parts_of_different_sizes_are_refused(tmp_path):
    (tmp_path / "a#0").mkdir()
    for number, size in enumerate([(4, 6), (6, 4)]):
        Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / "a#0" / f"{number}.png")
    with pytest.raises(ValueError, match=r"a#0/1.png: its size is \(6, 4\) .* other masks have \(4, 6\)"):
        read_mask_folder(tmp_path, lambda name: name == "a#0")
