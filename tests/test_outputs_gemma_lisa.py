"""What `segment` returns and computes if only some answers have a mask, or several questions share an image."""

import pytest
import torch

from gemma_lisa.chat_template_gemma_lisa import user_turn
from gemma_lisa.outputs_gemma_lisa import GemmaLisaOutput, SegmentOutput
from gemma_lisa.pipeline_gemma_lisa import answer


@pytest.fixture
def force(tiny):
    """Make the model generate these texts, one for each conversation of the batch."""
    model, processor = tiny
    hooks = []

    def call(*texts):
        scripts = [processor.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        step = iter(range(100))

        def say(module, inputs, output):
            at, logits = next(step), torch.zeros_like(output)
            for row, script in enumerate(scripts):
                logits[row, -1, script[at] if at < len(script) else model.stop_token_ids[-1]] = 1
            return logits

        for hook in hooks:
            hook.remove()
        hooks[:] = [model.lm_head.register_forward_hook(say)]

    yield call
    for hook in hooks:
        hook.remove()


@pytest.fixture
def encoded(tiny, monkeypatch):
    """Numbers of images that SAM and Gemma encode, in the order of the calls."""
    model, counts = tiny[0], {"sam": [], "gemma": []}
    for name, module in (("sam", model.sam.vision_encoder), ("gemma", model.model.vision_tower)):
        forward = module.forward

        def watch(*inputs, name=name, forward=forward, **options):
            counts[name].append(len(inputs[0] if inputs else options["pixel_values"]))
            return forward(*inputs, **options)

        monkeypatch.setattr(module, "forward", watch)
    return counts


@pytest.fixture
def asked(tiny, make_picture):
    """Inputs of `segment` for questions about three images."""
    messages = [[user_turn("?", make_picture(64, 48, seed))] for seed in range(3)]
    return tiny[1].apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)


def test_sam_encodes_only_images_with_a_mask(tiny, asked, force, encoded):
    force("No.", "It is [SEG].", "No.")
    output = tiny[0].segment(**asked)
    assert encoded["sam"] == [1]
    assert output.seg_image_index.tolist() == [1]
    assert output.image_embeddings is None  # not of all images
    whole = tiny[0].encode_for_sam(asked["sam_pixel_values"])
    given = {name: value for name, value in asked.items() if name != "sam_pixel_values"}
    force("No.", "It is [SEG].", "No.")
    expected = tiny[0].segment(**given, image_embeddings=whole)
    torch.testing.assert_close(output.pred_masks, expected.pred_masks, rtol=1e-4, atol=1e-5)


def test_sam_does_not_run_without_a_mask(tiny, asked, force, encoded):
    force("No.", "No.", "No.")
    output = tiny[0].segment(**asked)
    assert encoded["sam"] == []
    assert output.pred_masks.shape == (0, 32, 32) and output.iou_scores.shape == (0,)
    assert [len(found["masks"]) for found in tiny[1].post_process_segmentation(output, asked)] == [0, 0, 0]


def test_all_images_are_returned_if_all_have_a_mask(tiny, asked, force, encoded):
    force("[SEG]", "[SEG]", "[SEG] and [SEG]")
    assert tiny[0].segment(**asked).image_embeddings.shape[0] == 3
    assert sum(encoded["sam"]) == 3


def test_questions_about_the_same_image_encode_it_once(tiny, make_picture, force, encoded):
    first, second = make_picture(64, 48, 0), make_picture(40, 60, 1)
    texts = ["It is [SEG].", "No.", "It is [SEG].", "[SEG] and [SEG]"]
    questions = [{"text": "where?", "image": image} for image in (first, second, first, first)]
    force(*texts)
    found = answer(*tiny, questions)
    assert encoded == {"gemma": [2], "sam": [1]}
    for at, question in enumerate(questions):
        force(texts[at])
        (alone,) = answer(*tiny, [question])
        assert alone["raw_text"] == found[at]["raw_text"]
        assert (alone["masks"] == found[at]["masks"]).float().mean() > 0.999 or not len(alone["masks"])
        torch.testing.assert_close(found[at]["scores"], alone["scores"], rtol=1e-4, atol=1e-5)


def test_features_can_be_given_instead_of_pixels(tiny, asked, force, encoded):
    force("[SEG]", "No.", "[SEG]")
    expected = tiny[0].segment(**asked)
    given = dict(asked)
    given["image_features"] = tiny[0].encode_for_gemma(given.pop("pixel_values"))
    given["image_embeddings"] = tiny[0].encode_for_sam(given.pop("sam_pixel_values"))
    encoded["gemma"].clear(), encoded["sam"].clear()
    force("[SEG]", "No.", "[SEG]")
    found = tiny[0].segment(**given)
    assert encoded == {"gemma": [], "sam": []}
    torch.testing.assert_close(found.pred_masks, expected.pred_masks, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("index", [[0, 1], [0, 1, 3], [0, 1, -1]])
def test_wrong_index_of_images_is_an_error(tiny, asked, index):
    with pytest.raises(ValueError, match="image_index"):
        tiny[0].segment(**asked, image_index=torch.tensor(index))


def test_shared_image_with_points_is_an_error(tiny, asked):
    with pytest.raises(ValueError, match="points and boxes cannot be combined with image_index"):
        tiny[0].segment(**asked, image_index=torch.arange(3), points=[None, [(1, 1, 1)], None])


@pytest.mark.parametrize("output_class", [GemmaLisaOutput, SegmentOutput])
def test_outputs_accept_fields_of_newer_releases(output_class):
    assert output_class(new_field=torch.zeros(1))["new_field"] == 0
