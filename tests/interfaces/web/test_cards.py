"""The example checkpoint answers the question of each card correctly."""

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.synthetic.shapes_drawings import draw_scene
from gemma_lisa.interfaces.web.cards import CARDS, url_of

MIN_IOU = 0.8
# The pictures are drawings of this level and size, by (77, index) as the seed
SEEDS = {"white.png": 31, "grey.png": 26, "light.png": 9, "dark.png": 37}
SIZE = 480
SHAPES, COLORS = ("circle", "square", "triangle"), ("red", "green", "blue")


def target_of(card) -> np.ndarray:
    """Return the union of the objects that the question names, (H, W) bool."""
    color = next(color for color in COLORS if color in card.question)
    shape = next(shape for shape in SHAPES if shape in card.question)
    scene = draw_scene(np.random.default_rng((77, SEEDS[card.path.name])), SIZE)
    assert (scene.image == np.asarray(Image.open(card.path).convert("RGB"))).all(), "the picture is another drawing"
    masks = [thing.mask for thing in scene.objects if (thing.color, thing.shape) == (color, shape)]
    return np.any(masks, axis=0) if masks else np.zeros(scene.image.shape[:2], dtype=bool)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: f"{card.path.stem}-{card.question}")
def test_the_masks_of_a_card_match_its_objects(example, card):
    model, processor = example
    answer = model.start(card.path, processor).ask(card.question)
    target = target_of(card)
    predicted = answer["masks"].numpy().any(0) if len(answer["masks"]) else np.zeros_like(target)
    union = (predicted | target).sum()
    iou = (predicted & target).sum() / union if union else 1.0
    assert iou >= MIN_IOU, f"IoU {iou:.2f}: {answer['raw_text']}"


def test_the_cards_ask_only_for_what_the_example_checkpoint_knows():
    for card in CARDS:
        assert card.path.is_file() and url_of(card.path).startswith("data:image/png;base64,")
        assert any(color in card.question for color in COLORS) and any(shape in card.question for shape in SHAPES)
    assert len({card.question for card in CARDS}) == len(CARDS)
