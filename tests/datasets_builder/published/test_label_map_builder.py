"""Photos with label maps: orientation, and one pass for all classes of a map."""

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.published import label_map_builder
from gemma_lisa.datasets_builder.published.ade20k import Ade20k
from gemma_lisa.datasets_builder.published.label_map_builder import labels_of, named_masks, semantic_row
from gemma_lisa.datasets_builder.rows import decode_mask


def test_label_map_is_upright_or_rotated_like_its_photo(tmp_path):
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(labels).save(tmp_path / "lying.png")
    Image.fromarray(np.rot90(labels, -1)).save(tmp_path / "upright.png")
    photo = Image.fromarray(labels).convert("RGB")
    photo.save(tmp_path / "photo.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees clockwise
    photo.save(tmp_path / "turned.jpg", exif=exif)
    assert np.array_equal(labels_of(tmp_path / "photo.jpg", tmp_path / "lying.png"), labels)
    for name in ("lying", "upright"):
        found = labels_of(tmp_path / "turned.jpg", tmp_path / f"{name}.png")
        assert np.array_equal(found, np.rot90(labels, -1)), name


def test_missing_broken_or_differently_sized_photo_is_refused_with_its_name(tmp_path):
    Image.new("L", (4, 3)).save(tmp_path / "map.png")
    Image.new("RGB", (5, 3)).save(tmp_path / "wide.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    for name, words in (("none", "no such file"), ("broken", "cannot be read"), ("wide", "5 x 3")):
        with pytest.raises(ValueError, match=f"{name}.jpg.*{words}"):
            labels_of(tmp_path / f"{name}.jpg", tmp_path / "map.png")


def test_label_map_is_read_and_split_only_once_for_all_its_classes(tmp_path, monkeypatch):
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for kind, picture in (("images", Image.new("RGB", (4, 3))), ("annotations", Image.fromarray(labels))):
        (tmp_path / "ade20k" / kind / "training").mkdir(parents=True)
        picture.save(tmp_path / "ade20k" / kind / "training" / f"a.{'jpg' if kind == 'images' else 'png'}")
    calls = []
    for name in ("read_label_map", "class_masks"):
        work = getattr(label_map_builder, name)
        monkeypatch.setattr(
            label_map_builder, name, lambda given, name=name, work=work: calls.append(name) or work(given)
        )
    builder = Ade20k(data_dir=str(tmp_path), cache_dir=str(tmp_path / "cache"))
    generated = builder._split_generators(None)[0].gen_kwargs
    [(_, row)] = builder._generate_examples(**generated)
    assert len(row["targets"]) == 11
    assert calls == ["read_label_map", "class_masks"]


def test_photo_without_classes_gives_no_row(tmp_path):
    assert semantic_row(tmp_path / "a.jpg", "set/train/a", {}, None) is None


def test_numbers_with_the_same_name_are_united_and_numbers_without_a_name_are_ignored(tmp_path):
    labels = np.random.default_rng(0).integers(0, 6, (40, 30)).astype(np.uint8)
    names = {0: "road", 1: None, 2: "sky", 3: "road", 4: None, 5: "road"}
    masks, ignore = named_masks(labels, names, tmp_path / "map.png")
    assert list(masks) == ["road", "sky"]
    assert np.array_equal(decode_mask(masks["road"], ""), np.isin(labels, (0, 3, 5)))
    assert np.array_equal(decode_mask(masks["sky"], ""), labels == 2)
    assert np.array_equal(decode_mask(ignore, ""), np.isin(labels, (1, 4)))
    assert named_masks(np.zeros((2, 2), dtype=np.uint8), names, tmp_path / "map.png")[1] is None
    with pytest.raises(ValueError, match="map.png: unknown class number 5; the data set has 5 class numbers"):
        named_masks(labels, {number: "x" for number in range(5)}, tmp_path / "map.png")
