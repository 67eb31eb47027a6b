"""The example checkpoint answers the question of each card correctly."""

import json

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.synthetic.shapes_drawings import draw_scene
from gemma_lisa.interfaces.web.cards import CARDS, MAX_BYTES, MAX_CARDS, MAX_QUESTION, Card, cards_of, url_of

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


@pytest.fixture
def write_examples(tmp_path):
    """Return a function that writes a model's folder with examples and returns the folder."""

    def write(content):
        folder = tmp_path / "model"
        (folder / "examples").mkdir(parents=True, exist_ok=True)
        for path in (folder / "examples" / "1.png", tmp_path / "outside.png"):
            Image.new("RGB", (8, 8), "red").save(path)
        (folder / "examples" / "answers.json").write_text(json.dumps(content))
        return folder

    return write


def test_a_model_with_examples_has_its_own_cards(write_examples):
    asked = [{"image": "examples/1.png", "text": f"question {number}", "masks": []} for number in range(6)]
    folder = write_examples(asked)
    path = (folder / "examples" / "1.png").resolve()
    assert cards_of(str(folder)) == tuple(Card(path, f"question {number}") for number in range(MAX_CARDS))
    assert url_of(path).startswith("data:image/png;base64,")


def test_a_model_without_examples_has_the_cards_of_the_example_checkpoint(tmp_path):
    assert cards_of(None) == cards_of("org/name") == cards_of(tmp_path) == CARDS


def test_examples_that_cannot_be_shown_are_skipped(write_examples):
    names = ("../outside.png", "examples/none.png", "examples", "examples/answers.json", "x" * 10**5, "\0.png", 7)
    refused = [*({"image": name, "text": "a"} for name in names), "a", {}, {"image": "examples/1.png"}]
    refused += [{"image": "examples/1.png", "text": text} for text in ("", " ", 7, "x" * (MAX_QUESTION + 1))]
    folder = write_examples(refused)
    refused += [{"image": str(folder.parent / "outside.png"), "text": "a"}]
    for entry in refused:
        assert cards_of(write_examples([entry])) == CARDS, entry
    assert [
        card.question for card in cards_of(write_examples([*refused, {"image": "examples/1.png", "text": "b"}]))
    ] == ["b"]
    (folder / "examples" / "1.png").write_bytes(bytes(MAX_BYTES + 1))
    (folder / "examples" / "answers.json").write_text('[{"image": "examples/1.png", "text": "b"}]')
    assert cards_of(folder) == CARDS


@pytest.mark.parametrize("content", ["{", "{}", "null", "[" * 10**5])
def test_a_damaged_list_of_examples_gives_the_usual_cards(write_examples, content):
    folder = write_examples([])
    (folder / "examples" / "answers.json").write_text(content)
    assert cards_of(folder) == CARDS
