"""FeatureCache: images are found by content, features are those of the encoders, damaged entries are encoded again."""

import logging
import pickle

import pytest
import torch
from feature_cached import SIZE, cache_of, files_in, photo

from gemma_lisa.datasets_builder.rows import load_image
from gemma_lisa.feature_cache.cache import image_inputs

PIXELS, SIZES = {"pixel_values", "sam_pixel_values"}, {"original_sizes", "reshaped_input_sizes"}
FEATURES = {"image_features", "image_embeddings"}


def find_all(cache, rows):
    return [cache.find(row["image"], row["source"]) for row in rows]


def test_features_are_those_of_the_encoders_in_bf16(small, filled):
    (model, processor), (rows, cache) = small, filled
    batch = image_inputs(cache, processor, find_all(cache, rows))
    assert batch.keys() == FEATURES | SIZES
    pixels = processor.encode_images([load_image(row["image"], "") for row in rows])
    with torch.no_grad():
        expected = model.encode_for_gemma(pixels["pixel_values"]), model.encode_for_sam(pixels["sam_pixel_values"])
    for name, features in zip(("image_features", "image_embeddings"), expected, strict=True):
        assert batch[name].dtype == torch.bfloat16
        torch.testing.assert_close(batch[name].float(), features, rtol=2**-7, atol=1e-4)
    for name in SIZES:
        assert torch.equal(batch[name], pixels[name])
    assert batch["original_sizes"].tolist() == [list(SIZE)] * 5  # upright, although stored sideways


def test_a_hit_decodes_nothing(filled, monkeypatch):
    rows, cache = filled
    monkeypatch.setattr("gemma_lisa.images_gemma_lisa._decode", lambda *_: pytest.fail("an image was decoded"))
    found = find_all(cache, rows)
    assert all((image.height, image.width) == SIZE for image in found)
    assert cache.read(found).keys() == FEATURES | SIZES


def test_an_image_is_found_by_its_content(filled, tmp_path):
    _, cache = filled
    path = tmp_path / "renamed.jpg"
    path.write_bytes(photo(3))
    found = [
        cache.find(image, "row")
        for image in ({"bytes": None, "path": str(path)}, str(path), path, {"bytes": photo(3), "path": "gone.jpg"})
    ]
    assert len({image.key for image in found}) == 1
    path.write_bytes(photo(3) + b"\0")
    assert cache.find(path, "row") is None
    for image in (None, found[-1].load(), {"bytes": None, "path": str(tmp_path / "missing.jpg")}):
        assert cache.find(image, "row") is None


def test_a_found_image_is_small_when_it_is_pickled_by_path(filled, tmp_path):
    _, cache = filled
    (tmp_path / "a.jpg").write_bytes(photo(0))
    image = cache.find({"bytes": None, "path": str(tmp_path / "a.jpg")}, "row")
    copy = pickle.loads(pickle.dumps(image))
    assert copy == image and len(pickle.dumps(image)) < 1000
    assert copy.load().size == SIZE[::-1]


def test_the_cache_is_copied_to_workers(filled):
    rows, cache = filled
    copy = pickle.loads(pickle.dumps(cache))
    assert torch.equal(
        copy.read(find_all(copy, rows))["image_features"], cache.read(find_all(cache, rows))["image_features"]
    )


def test_pixels_of_the_whole_batch_are_used_if_one_image_is_missing(small, filled):
    (_, processor), (rows, cache) = small, filled
    new = load_image({"bytes": photo(77), "path": None}, "new")
    batch = image_inputs(cache, processor, [*find_all(cache, rows)[:1], new], as_bytes=True)
    assert batch.keys() == PIXELS | SIZES
    expected = processor.encode_images([load_image(rows[0]["image"], ""), new], as_bytes=True)
    assert all(torch.equal(batch[name], expected[name]) for name in batch)


def test_a_batch_without_images_has_empty_features(small, filled):
    _, cache = filled
    batch = image_inputs(cache, small[1], [])
    config = small[0].config
    assert batch["image_features"].shape == (0, config.mm_tokens_per_image, config.get_text_config().hidden_size)
    assert batch["image_embeddings"].shape[0] == 0 and batch["image_embeddings"].ndim == 4
    assert image_inputs(None, small[1], []) == {}


@pytest.mark.parametrize("encoder, missing", [("sam", "pixel_values"), ("gemma", "sam_pixel_values")])
def test_one_encoder_can_be_cached_alone(small, filled, encoder, missing):
    """The entries of each encoder are separate, so those of a cache of both are found."""
    rows, both = filled
    cache = cache_of(both.folder, small, [encoder])
    batch = image_inputs(cache, small[1], find_all(cache, rows))
    assert batch.keys() == {cache.stores[0].name, missing} | SIZES


def test_training_without_masks_gets_no_sizes(small, filled):
    rows, cache = filled
    words = cache_of(cache.folder, small, ["gemma"])
    assert image_inputs(words, small[1], find_all(words, rows), with_sam=False).keys() == {"image_features"}


def damage(path, kind):
    content = path.read_bytes()
    path.write_bytes(content[:100] if kind == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("kind", ["truncated", "changed"])
def test_a_damaged_entry_is_announced_once_and_deleted(small, filled, caplog, kind):
    (_, processor), (rows, cache) = small, filled
    images = find_all(cache, rows)
    path = cache.stores[1].path(images[2].key)
    damage(path, kind)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert image_inputs(cache, processor, images).keys() == PIXELS | SIZES
    [line] = [record.getMessage() for record in caplog.records]
    assert str(path) in line and "is damaged" in line and "\n" not in line
    assert not path.exists()
    assert cache.find(rows[2]["image"], "row") is None


def test_an_entry_that_cannot_be_read_is_announced_once(filled, caplog):
    rows, cache = filled
    images = find_all(cache, rows)
    path = cache.stores[0].path(images[0].key)
    path.unlink()
    path.mkdir()
    with caplog.at_level(logging.WARNING):
        assert cache.read(images) is None and cache.read(images) is None
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} cannot be read (Is a directory). The image is encoded again."
    ]


def test_a_cache_that_must_be_complete_refuses_a_missing_image(small, filled):
    rows, cache = filled
    images = find_all(cache, rows)
    cache.must_be_complete = True
    assert image_inputs(cache, small[1], images).keys() == FEATURES | SIZES
    cache.stores[0].path(images[0].key).unlink()
    for given in (images, [images[1].load()]):
        with pytest.raises(ValueError, match="missing or damaged"):
            image_inputs(cache, small[1], given)


def test_files_are_named_by_the_content_and_the_fingerprint(filled):
    _, cache = filled
    files = files_in(cache.folder)
    assert len(files) == 10
    assert {path.relative_to(cache.folder).parts[0].split("-")[0] for path in files} == {"sam", "gemma"}
    assert all(
        isinstance(store.folder.name, str) and len(store.folder.name.split("-")[1]) == 16 for store in cache.stores
    )
