"""SAM's decoder with a [SEG] and SAM's own prompts, in `segment` and alone."""

import pytest
import torch

from gemma_lisa.mask_decoding_gemma_lisa import decode_masks, prompts_in_sam_frame

QUESTIONS = ["the red circle", "the square", "what is round"]


@pytest.fixture
def asked(tiny, make_picture):
    """Inputs of three conversations about images of different sizes."""
    _, processor = tiny
    conversations = []
    for seed, (question, size) in enumerate(zip(QUESTIONS, [(40, 60), (64, 64), (90, 30)], strict=True)):
        image = {"type": "image", "image": make_picture(*size, seed)}
        conversations.append([{"role": "user", "content": [image, {"type": "text", "text": question}]}])

    def inputs(rows):
        chosen = [conversations[row] for row in rows]
        return processor.apply_chat_template(chosen, add_generation_prompt=True, tokenize=True, return_dict=True)

    return inputs


@pytest.fixture
def segment_twice(tiny):
    """`segment` of a model that generates two [SEG] for every question."""
    model, processor = tiny
    script = processor.tokenizer.encode("[SEG] and [SEG]", add_special_tokens=False)

    def force(module, inputs, output):
        logits = torch.zeros_like(output)
        logits[:, -1, script[force.step % len(script)]] = 1
        force.step += 1
        return logits

    force.step = 0
    hook = model.lm_head.register_forward_hook(force)
    yield lambda inputs, **options: model.segment(**inputs, max_new_tokens=len(script), **options)
    hook.remove()


POINTS = [[(10, 10, 1), (50, 30, 0)], None, [(3, 80, 1)]]
BOXES = [None, (5, 6, 40, 50), (1, 2, 20, 60)]


def test_batch_with_different_prompts_is_equal_to_single_images(asked, segment_twice):
    together = segment_twice(asked([0, 1, 2]), points=POINTS, boxes=BOXES)
    plain = segment_twice(asked([0, 1, 2]))
    assert together.seg_image_index.tolist() == plain.seg_image_index.tolist() == [0, 0, 1, 1, 2, 2]
    for row in range(3):
        alone = segment_twice(asked([row]), points=[POINTS[row]], boxes=[BOXES[row]])
        mine = together.seg_image_index == row
        torch.testing.assert_close(together.pred_masks[mine], alone.pred_masks, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.iou_scores[mine], alone.iou_scores, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(together.pred_masks[mine], plain.pred_masks[mine], atol=1e-3)


def test_prompts_of_none_are_equal_to_no_prompts(asked, segment_twice):
    expected = segment_twice(asked([0, 1]))
    found = segment_twice(asked([0, 1]), points=[None, None])
    torch.testing.assert_close(found.pred_masks, expected.pred_masks)


def test_multimask_output_returns_the_mask_with_the_best_score(tiny, asked, segment_twice):
    model, _ = tiny
    taken = []
    hook = model.sam.mask_decoder.register_forward_hook(lambda module, inputs, output: taken.append(output))
    try:
        output = segment_twice(asked([0, 1]), multimask_output=True)
    finally:
        hook.remove()
    masks, scores = taken[-1][0][:, 0], taken[-1][1][:, 0]
    assert masks.shape[:2] == (4, 3)
    for row, best in enumerate(scores.argmax(dim=1).tolist()):
        assert torch.equal(output.pred_masks[row], masks[row, best])
        assert output.iou_scores[row] == scores[row].max()


def test_place_and_label_of_a_point_change_the_mask(tiny):
    model, _ = tiny
    torch.manual_seed(0)
    size = model.config.sam_config.prompt_encoder_config.hidden_size
    side = model.sam.prompt_encoder.image_embedding_size[0]
    seg, image = torch.randn(1, size), torch.randn(1, size, side, side)

    def masks(*points):
        return decode_masks(model.sam, seg, image, torch.tensor([points]))[0]

    with torch.no_grad():
        at_one, elsewhere, not_there = masks((5.0, 5.0, 1.0)), masks((50.0, 5.0, 1.0)), masks((5.0, 5.0, 0.0))
    assert not torch.allclose(at_one, elsewhere) and not torch.allclose(at_one, not_there)


def test_prompts_are_scaled_like_the_image(tiny):
    model, _ = tiny
    points, box = prompts_in_sam_frame([(100, 50, 1)], (0, 0, 200, 100), (100, 200), (32, 64))
    assert points.tolist() == [[[32.0, 16.0, 1.0]]] and box.tolist() == [[0.0, 0.0, 64.0, 32.0]]


@pytest.mark.parametrize(
    ("options", "error_text"),
    [
        ({"points": [None]}, r"one item per image \(2\), got 1 and 2"),
        ({"points": [[(70, 3, 1)], None]}, "must be inside the image of 60 × 40"),
        ({"boxes": [None, (5, 5, 5, 9)]}, "left, top, right, bottom"),
        ({"points": [[], None]}, r"shape \(N, 3\), with x, y and label"),
    ],
)
def test_invalid_prompts_are_an_error(asked, segment_twice, options, error_text):
    with pytest.raises(ValueError, match=error_text):
        segment_twice(asked([0, 1]), **options)


def test_prompts_need_the_sizes_of_the_images(asked, segment_twice):
    inputs = asked([0])
    del inputs["original_sizes"]
    with pytest.raises(ValueError, match="need original_sizes"):
        segment_twice(inputs, points=[[(1, 1, 1)]])
