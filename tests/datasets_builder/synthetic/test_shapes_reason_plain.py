"""The level reason_plain asks about the scenes of reason by color and shape."""

import numpy as np

from gemma_lisa.datasets_builder.synthetic import shapes_reason, shapes_reason_plain
from gemma_lisa.datasets_builder.synthetic.shapes import row_of_scene


def test_rows_have_plain_questions_with_masks_only():
    texts = set()
    for number in range(60):
        generator = np.random.default_rng(number)
        scene = shapes_reason_plain.draw_scene(generator, 64)
        same = shapes_reason.draw_scene(np.random.default_rng(number), 64)
        assert np.array_equal(scene.image, same.image)
        row = row_of_scene(scene, generator, number % 2 == 0, "drawn", shapes_reason_plain)
        assert row["conversation"] == [] and len(row["targets"]) == shapes_reason.N_QUESTIONS
        for target in row["targets"]:
            assert target["kind"] == "plain" and target["masks"]
            texts.add(target["texts"][0])
    colors, shapes = len(shapes_reason_plain.COLORS), len(shapes_reason_plain.SHAPES)
    assert len(texts) <= 2 * ((colors + 1) * (shapes + 1) - 1)  # singular and plural
