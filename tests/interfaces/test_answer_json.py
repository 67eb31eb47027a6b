"""Answers as JSON: RLE, polygons and box describe the same mask, and the file is readable."""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from gemma_lisa.datasets_builder.rows import decode_mask
from gemma_lisa.interfaces.answer_json import json_text, polygons, record


def filled(shape, rings):
    """Return the mask that polygons draw, at four times the size, resized back."""
    canvas = Image.new("L", (shape[1] * 4, shape[0] * 4))
    draw = ImageDraw.Draw(canvas)
    for outer, *holes in rings:
        draw.polygon([(x * 4, y * 4) for x, y in outer], fill=255)
        for hole in holes:
            draw.polygon([(x * 4, y * 4) for x, y in hole], fill=0)
    return np.asarray(canvas.resize((shape[1], shape[0]), Image.Resampling.BOX)) > 127


def ring(shape=(40, 60)):
    y, x = np.indices(shape)
    distance = np.hypot(x - 30, y - 20)
    return (distance < 15) & (distance > 6)


def test_polygons_describe_the_mask_with_its_hole():
    mask = ring()
    (polygon,) = polygons(mask)
    assert len(polygon) == 2, "an outer ring and a hole"
    assert all(outline[0] == outline[-1] for outline in polygon)
    again = filled(mask.shape, [polygon])
    assert (again & mask).sum() / (again | mask).sum() > 0.95


def test_separate_regions_at_the_border_have_a_polygon_each():
    mask = np.zeros((20, 30), dtype=bool)
    mask[:5, :5] = mask[10:, 20:] = True
    found = polygons(mask)
    assert len(found) == 2
    corners = np.concatenate([outer for (outer,) in found])
    assert corners.min(axis=0).tolist() == [0.0, 0.0] and corners.max(axis=0).tolist() == [30.0, 20.0]


def test_an_empty_mask_has_no_polygon_and_one_pixel_has_one():
    assert polygons(np.zeros((4, 4), dtype=bool)) == []
    one = np.zeros((4, 4), dtype=bool)
    one[2, 1] = True
    ((outer,),) = polygons(one)
    assert np.mean(outer[:-1], axis=0).tolist() == [1.5, 2.5]


@pytest.fixture
def answer():
    masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    masks[0] = torch.from_numpy(ring())
    return {
        "text": "It is a ring.",
        "raw_text": "It is [SEG] a ring and [SEG].",
        "phrases": ["a ring", ""],
        "masks": masks,
        "scores": torch.tensor([0.875, 0.5]),
        "complete": True,
    }


def test_a_record_holds_the_mask_exactly(answer):
    found = record("a.png", "what is round", answer)
    first, second = found["masks"]
    assert (decode_mask(first["rle"], "json") == ring()).all()
    assert first["area"] == ring().sum() and first["box"] == [16, 6, 29, 29] and first["score"] == 0.875
    assert second["box"] is None and second["area"] == 0 and second["polygons"] == []
    assert {name: found[name] for name in ("image", "query", "text", "complete")} == {
        "image": "a.png",
        "query": "what is round",
        "text": "It is a ring.",
        "complete": True,
    }


def test_a_record_has_the_status_of_the_answer_and_of_each_mask(answer):
    found = record("a.png", "what is round", answer)
    assert found["status"] == "found" and [mask["status"] for mask in found["masks"]] == ["found", "nothing found"]
    uncertain = record("a.png", "what is round", answer | {"scores": torch.tensor([0.05, 0.5])})
    assert uncertain["status"] == uncertain["masks"][0]["status"] == "low confidence"
    empty = record("a.png", "what is round", answer | {"masks": torch.zeros(2, 40, 60, dtype=torch.bool)})
    assert empty["status"] == "nothing found"
    cut_off = record("a.png", "what is round", answer | {"complete": False})
    assert cut_off["status"] == "incomplete"


def test_the_file_has_one_line_per_answer_and_one_per_mask(answer):
    none = answer | {"masks": torch.zeros(0, 40, 60, dtype=torch.bool), "scores": torch.zeros(0), "phrases": []}
    records = [record("a.png", "what is round", answer), record("ü.png", "a star", none)]
    text = json_text(records)
    assert json.loads(text) == records and json.loads(json_text([])) == []
    lines = text.splitlines()
    assert [line.split(":")[0].strip() for line in lines] == [
        "[",
        '{"image"',
        '{"phrase"',
        '{"phrase"',
        "]},",
        '{"image"',
        "]",
    ]
    assert '"ü.png"' in text and lines[5].endswith('"masks": []}')
