"""The pipeline: loaded from a saved checkpoint, with the same answers as `segment`."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from gemma_lisa.checkpoints.loading import EXAMPLE, load_checkpoint
from gemma_lisa.pipeline_gemma_lisa import TASK, ReasoningSegmentationPipeline
from gemma_lisa.pipeline_gemma_lisa import answer as answer_questions
from gemma_lisa.scripts.init_tiny import build_tiny

SCENE = EXAMPLE.parents[1] / "docs" / "scene.png"
TEXTS = ["the red circle", "all the squares", "the yellow star", "Where is the green triangle?"]


@pytest.fixture(scope="module")
def example():
    return load_checkpoint(EXAMPLE)


@pytest.fixture(scope="module")
def pipe(example):
    model, processor = example
    return ReasoningSegmentationPipeline(model=model, processor=processor, device="cpu")


@pytest.fixture(scope="module")
def scene():
    return Image.open(SCENE).convert("RGB")


@pytest.fixture
def segmented(example):
    """The answer of `segment` and the processor to one image and one text."""
    model, processor = example

    def segment(image, text, threshold=0.0, **options):
        content = [{"type": "image", "image": image}, {"type": "text", "text": text}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
        )
        return processor.post_process_segmentation(model.segment(**inputs, **options), inputs, threshold)[0]

    return segment


def check_same(found, expected):
    assert {name: found[name] for name in ("text", "raw_text", "complete", "status")} == {
        name: expected[name] for name in ("text", "raw_text", "complete", "status")
    }
    assert [segment["label"] for segment in found["segments"]] == expected["phrases"]
    assert [segment["score"] for segment in found["segments"]] == pytest.approx(expected["scores"].tolist(), abs=1e-5)
    for segment, mask in zip(found["segments"], expected["masks"].numpy(), strict=True):
        assert segment["mask"].mode == "L" and segment["mask"].size == (mask.shape[1], mask.shape[0])
        np.testing.assert_array_equal(np.asarray(segment["mask"]), mask * np.uint8(255))


def test_batch_of_questions_has_the_same_answers_as_single_questions(example, scene, segmented):
    mirrored = scene.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((100, 60))
    pictures = [scene, None, mirrored]
    answers = answer_questions(
        *example, [{"text": text, "image": picture} for text, picture in zip(TEXTS[:3], pictures, strict=True)]
    )
    assert [tuple(found["masks"].shape[1:]) for found in answers] == [(scene.height, scene.width), (0, 0), (60, 100)]
    for found, text, picture in zip(answers, TEXTS, pictures, strict=False):
        (expected,) = [segmented(picture, text)] if picture else answer_questions(*example, [{"text": text}])
        assert found.keys() == expected.keys() and len(found["scores"]) == len(found["phrases"])
        assert [found[name] for name in ("text", "raw_text", "phrases", "complete", "status")] == [
            expected[name] for name in ("text", "raw_text", "phrases", "complete", "status")
        ]
        assert torch.equal(found["masks"], expected["masks"])


def test_options_of_questions_and_of_the_batch_reach_the_model(example, scene, segmented):
    points, box = [[20, 30, 1], [100, 100, 0]], [10, 10, 60, 70]
    plain, prompted = answer_questions(
        *example,
        [{"text": TEXTS[0], "image": scene}, {"text": TEXTS[0], "image": scene, "points": points, "boxes": box}],
        threshold=2.0,
        multimask_output=True,
    )
    for found, options in ((plain, {}), (prompted, {"points": [points], "boxes": [box]})):
        expected = segmented(scene, TEXTS[0], threshold=2.0, multimask_output=True, **options)
        assert torch.equal(found["masks"], expected["masks"])
    assert not torch.equal(plain["scores"], prompted["scores"])
    (cut,) = answer_questions(*example, [{"text": TEXTS[0], "image": scene}], max_new_tokens=2, encode_mask=torch.sum)
    assert not cut["complete"]
    (counted,) = answer_questions(*example, [{"text": TEXTS[0], "image": scene}], encode_mask=torch.sum)
    assert counted["masks"] == [segmented(scene, TEXTS[0])["masks"].sum()]


def test_saved_checkpoint_can_be_loaded_as_a_pipeline(scene, segmented, tmp_path):
    found = pipeline(TASK, model=str(EXAMPLE), trust_remote_code=True)
    assert type(found).__module__.startswith("transformers_modules.")
    answer = found(images=scene, text="the red circle")
    assert len(answer["segments"]) == 1 and np.asarray(answer["segments"][0]["mask"]).any()
    check_same(answer, segmented(scene, "the red circle"))
    # transformers puts classes into the configuration, but both ways of saving must work
    for name, save in (("model", found.model.save_pretrained), ("pipe", found.save_pretrained)):
        save(tmp_path / name)
        found.processor.save_pretrained(tmp_path / name)
        again = pipeline(TASK, model=str(tmp_path / name), trust_remote_code=True)
        check_same(again(scene, "the red circle"), segmented(scene, "the red circle"))


def test_every_checkpoint_contains_and_registers_its_pipeline(tmp_path):
    for part in build_tiny(image_size=32):
        part.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["custom_pipelines"][TASK]["impl"] == "pipeline_gemma_lisa.ReasoningSegmentationPipeline"
    assert (tmp_path / "pipeline_gemma_lisa.py").is_file()
    assert pipeline(model=str(tmp_path), trust_remote_code=True).task == TASK  # its only task


def test_code_is_not_run_without_trust_remote_code():
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        pipeline(TASK, model=str(EXAMPLE), trust_remote_code=False)


@pytest.mark.parametrize("kind", ["picture", "path", "name", "bytes"])
def test_images_of_every_type_are_accepted(pipe, segmented, scene, kind):
    image = {"picture": scene, "path": SCENE, "name": str(SCENE), "bytes": SCENE.read_bytes()}[kind]
    check_same(pipe(image, "the red circle"), segmented(scene, "the red circle"))


@pytest.mark.parametrize("batch_size", [1, 2, 4, 7])
def test_lists_of_images_and_texts_are_accepted(pipe, segmented, scene, batch_size):
    images = [
        scene,
        scene.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        scene.resize((100, 60)),
        scene.crop((0, 0, 90, 120)),
    ]
    answers = pipe(images=images, text=TEXTS, batch_size=batch_size)
    assert [len(answer["segments"]) for answer in answers] != [0] * 4
    for answer, image, text in zip(answers, images, TEXTS, strict=True):
        check_same(answer, segmented(image, text))
    for answer, image in zip(pipe(images, "the red circle", batch_size=batch_size), images, strict=True):
        check_same(answer, segmented(image, "the red circle"))


def test_several_texts_ask_about_one_image(pipe, segmented, scene):
    for answer, text in zip(pipe(scene, TEXTS, batch_size=3), TEXTS, strict=True):
        check_same(answer, segmented(scene, text))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_generator_is_read_lazily(pipe, segmented, scene, batch_size):
    given = []

    def questions():
        for text in TEXTS:
            given.append(text)
            yield {"image": scene, "text": text}

    answers = pipe(questions(), batch_size=batch_size)
    first = next(iter(answers))
    assert len(given) < len(TEXTS)
    check_same(first, segmented(scene, TEXTS[0]))
    for answer, text in zip(pipe(questions(), batch_size=batch_size), TEXTS, strict=True):
        check_same(answer, segmented(scene, text))
    for answer in pipe((image for image in [scene, scene]), "the red circle"):
        check_same(answer, segmented(scene, "the red circle"))


def test_data_set_is_accepted(pipe, segmented, scene):
    class Questions(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return {"image": scene, "text": TEXTS[index]}

    answers = list(pipe(Questions(), batch_size=2))
    assert len(answers) == 2
    for answer, text in zip(answers, TEXTS, strict=False):
        check_same(answer, segmented(scene, text))


def test_dict_is_one_question(pipe, segmented, scene):
    check_same(pipe({"image": scene, "text": "the red circle"}), segmented(scene, "the red circle"))
    (answer,) = pipe([{"image": scene, "text": "the red circle"}])
    check_same(answer, segmented(scene, "the red circle"))
    assert pipe([], "the red circle") == []


def test_options_reach_the_model(pipe, example, segmented, scene):
    short = pipe(scene, "the red circle", max_new_tokens=2)
    assert not short["complete"]
    check_same(short, segmented(scene, "the red circle", max_new_tokens=2))
    whole, less = (pipe(scene, "the red circle", threshold=at)["segments"][0]["mask"] for at in (0.0, 2.0))
    assert 0 < np.asarray(less).sum() < np.asarray(whole).sum()
    check_same(pipe(scene, "the red circle", threshold=2.0), segmented(scene, "the red circle", threshold=2.0))
    best = segmented(scene, "the red circle", multimask_output=True)
    assert not torch.equal(best["scores"], segmented(scene, "the red circle")["scores"])
    check_same(pipe(scene, "the red circle", multimask_output=True), best)
    model, processor = example
    settled = ReasoningSegmentationPipeline(model=model, processor=processor, device="cpu", max_new_tokens=2)
    check_same(settled(scene, "the red circle"), short_expected := segmented(scene, "the red circle", max_new_tokens=2))
    check_same(settled(scene, "the red circle", max_new_tokens=64), segmented(scene, "the red circle"))
    assert not short_expected["complete"]


def test_points_and_boxes_belong_to_their_image(pipe, segmented, scene):
    points, box = [[20, 30, 1], [100, 100, 0]], [10, 10, 60, 70]
    plain = segmented(scene, "the red circle")
    prompted = segmented(scene, "the red circle", points=[points], boxes=[box])
    assert not torch.equal(plain["scores"], prompted["scores"])
    check_same(pipe(scene, "the red circle", points=points, boxes=box), prompted)
    check_same(pipe({"image": scene, "text": "the red circle", "points": points, "boxes": box}), prompted)
    answers = pipe([scene, scene], "the red circle", points=[None, points], boxes=[None, box], batch_size=2)
    check_same(answers[0], plain)
    check_same(answers[1], prompted)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (dict(text="the red circle"), "There is no image"),
        (dict(images=SCENE), "question is empty"),
        (dict(images=SCENE, text="  "), "question is empty"),
        (dict(images=[SCENE], text=["a circle", "a square"]), "Questions: 1, text: 2"),
        (dict(images=[SCENE, SCENE], text="a circle", points=[None]), "Questions: 2, points: 1"),
        (dict(images="https://example.com/a.png", text="a circle"), "URLs .* are not supported"),
        (dict(images=["data:image/png;base64,AAAA"], text="a circle"), "URLs .* are not supported"),
        (dict(images={"image": "FTP://example.com/a.png", "text": "a circle"}), "URLs .* are not supported"),
        (dict(images="nowhere.png", text="a circle"), "does not exist"),
        (dict(images=b"", text="a circle"), "the file is empty"),
        (dict(images=b"words", text="a circle"), "cannot be read"),
        (dict(images=3, text="a circle"), "got int"),
        (dict(images={"image": SCENE, "text": "a circle", "box": [1, 1, 2, 2]}), "unknown keys: box"),
        (dict(images={"image": SCENE, "text": "a circle"}, text="a square"), "text is given twice"),
        (dict(images=iter([SCENE]), text=["a circle"]), "With a generator of images"),
        (dict(images=SCENE, text="a circle", max_tokens=3), "does not know max_tokens"),
        (dict(images=SCENE, text="the red circle", boxes=[0, 0, 5000, 5]), "must be inside the image"),
    ],
)
def test_invalid_call_is_an_error(pipe, call, message):
    with pytest.raises(ValueError, match=message):
        pipe(**call)


def test_missing_processor_is_an_error(example):
    with pytest.raises(ValueError, match="needs a processor"):
        ReasoningSegmentationPipeline(model=example[0])
