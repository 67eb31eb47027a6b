"""The common form of photos and objects that are written for labelling tools."""

from drawn_masks import masks
from exported_photos import exported

from gemma_lisa.datasets_builder.writers.exported import ExportedPhoto, accept_all


def test_an_object_returns_its_mask():
    mask = masks()["holes"]
    assert (exported("mug", mask).mask() == mask).all()


def test_the_stem_of_a_photo_has_no_suffix():
    assert ExportedPhoto("a.b.jpg", (3, 4)).stem == "a.b"


def test_all_names_are_accepted():
    assert accept_all(["a:b", "#"]) is None
