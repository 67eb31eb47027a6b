"""A vision encoder from SigLIP or a Gemma-LISA gives the features of its own checkpoint."""

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file
from stock_checkpoints import GEMMA_SIDE, edit_json, edit_weights, init, write_siglip, write_text_gemma
from transformers import CLIPConfig, Siglip2Config, SiglipImageProcessor, SiglipModel, SiglipVisionModel

from gemma_lisa.checkpoints.loading import EXAMPLE, load_checkpoint
from gemma_lisa.checkpoints.sources.vision import read_vision

PATCHES = GEMMA_SIDE // 8  # per side


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text_gemma(tmp_path_factory.mktemp("text"))


def stock_features(folder, layout, pixels):
    """Return the last hidden state of stock SigLIP."""
    if layout == "vision":
        encoder = SiglipVisionModel.from_pretrained(folder)
    else:
        encoder = SiglipModel.from_pretrained(folder).vision_model
    with torch.no_grad():
        return encoder(pixel_values=pixels).last_hidden_state


@pytest.mark.parametrize("layout", ["whole", "original", "vision"])
def test_features_equal_those_of_stock_siglip(layout, tmp_path, make_picture):
    folder = write_siglip(tmp_path / "siglip", layout)
    names = set(load_file(folder / "model.safetensors"))
    known = {
        "whole": "vision_model.encoder.layers.0.layer_norm1.weight",
        "original": "vision_model.embeddings.position_ids",
        "vision": "encoder.layers.0.layer_norm1.weight",
    }
    assert known[layout] in names and ("text_model.head.weight" in names) == (layout != "vision")

    source = read_vision(str(folder))
    pixels = source.image_processor([make_picture(50, 40)], return_tensors="pt")["pixel_values"]
    expected_pixels = SiglipImageProcessor.from_pretrained(folder)(make_picture(50, 40), return_tensors="pt")
    torch.testing.assert_close(pixels, expected_pixels["pixel_values"], atol=2 / 255, rtol=0)  # PIL and torchvision

    expected = stock_features(folder, layout, pixels)
    with torch.no_grad():
        found = source.load(torch.float32)(pixel_values=pixels).last_hidden_state
    assert found.shape == (1, PATCHES**2, 16) and expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert source.load(torch.bfloat16).dtype == torch.bfloat16


def test_image_tokens_are_the_mean_of_their_patches(text, sam, tmp_path, make_picture):
    folder = write_siglip(tmp_path / "siglip")
    model, processor = load_checkpoint(
        init(text, sam, tmp_path / "start", "--vision", str(folder), "--image_tokens", "4", "--dtype", "float32")
    )
    assert processor.image_seq_length == model.config.mm_tokens_per_image == 4
    messages = [
        {"role": "user", "content": [{"type": "image", "image": make_picture()}, {"type": "text", "text": "a"}]}
    ]
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
    assert (inputs["input_ids"] == model.config.image_token_index).sum() == 4

    pixels = inputs["pixel_values"]
    patches = stock_features(folder, "whole", pixels)[0].view(2, 2, 2, 2, 16)  # (row, y, column, x, size): 2 × 2 tokens
    pooled = patches.mean((1, 3)).flatten(0, 1)
    normalized = pooled * (pooled.square().mean(-1, keepdim=True) + model.config.vision_config.layer_norm_eps).rsqrt()
    with torch.no_grad():
        expected = normalized @ model.model.multi_modal_projector.mm_input_projection_weight
        found = model.get_image_features(pixels).pooler_output
    torch.testing.assert_close(found[0], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("side", "patch", "asked", "expected"),
    [
        (224, 16, None, 196),  # siglip-base-patch16-224
        (256, 16, None, 256),
        (512, 16, None, 256),
        (384, 14, None, 81),  # siglip-so400m-patch14-384: 27 patches per side
        (896, 14, None, 256),  # the encoder of Gemma 3 4B
        (512, 16, 1024, 1024),
        (224, 16, 49, 49),
        (224, 16, 1, 1),
    ],
)
def test_image_tokens_are_at_most_256_unless_asked_otherwise(side, patch, asked, expected, tmp_path):
    folder = write_siglip(tmp_path / "siglip", "vision")
    edit_json(folder / "config.json", image_size=side, patch_size=patch)
    edit_json(folder / "preprocessor_config.json", size={"height": side, "width": side})
    assert read_vision(str(folder), asked).tokens_per_image == expected


def test_a_gemma_lisa_gives_its_trained_encoder_and_its_sam(text, tmp_path):
    folder = init(text, EXAMPLE, tmp_path / "start", "--vision", str(EXAMPLE), "--dtype", "auto")
    example, example_processor = load_checkpoint(EXAMPLE, dtype=torch.float32)
    model, processor = load_checkpoint(folder)
    assert processor.image_seq_length == example_processor.image_seq_length
    assert processor.image_processor.to_dict() == example_processor.image_processor.to_dict()
    assert processor.sam_image_processor.to_dict() == example_processor.sam_image_processor.to_dict()
    for found, expected in ((model.model.vision_tower, example.model.vision_tower), (model.sam, example.sam)):
        expected = expected.state_dict()
        assert found.state_dict().keys() == expected.keys()
        assert all(torch.equal(weight, expected[name]) for name, weight in found.state_dict().items())
    assert not torch.equal(
        next(model.model.multi_modal_projector.parameters()), next(example.model.multi_modal_projector.parameters())
    )


# ---------------------------------------------------------------------------------------------------------------------
# Errors
# ---------------------------------------------------------------------------------------------------------------------
def spoil_clip(folder):
    shutil.rmtree(folder)
    CLIPConfig().save_pretrained(folder)
    return "--vision .*: a checkpoint of type 'clip'; expected SigLIP or SigLIP 2 with images of fixed size, or"


def spoil_naflex(folder):
    shutil.rmtree(folder)
    Siglip2Config().save_pretrained(folder)
    return "--vision .*: a checkpoint of type 'siglip2'; expected SigLIP or SigLIP 2 with images of fixed size"


def spoil_adapter(folder):
    (folder / "adapter_config.json").write_text("{}")
    return "--vision .*: this is an adapter. Merge it into its base model first"


def spoil_size(folder):
    edit_json(folder / "preprocessor_config.json", size={"height": 64, "width": 64})
    return "its image processor makes images of .*64.*, but config.json expects 32 x 32.$"


def spoil_no_image_processor(folder):
    (folder / "preprocessor_config.json").unlink()
    return "the image processor cannot be read"


def spoil_tokens(folder):
    return re.escape("5 image tokens cannot be pooled from 4 x 4 patches; possible with --image_tokens: 1, 4, 16.")


def spoil_missing(folder):
    edit_weights(folder, lambda weights: {k: v for k, v in weights.items() if "layers.1.layer_norm2.bias" not in k})
    return "1 weight is missing, such as .*encoder.layers.1.layer_norm2.bias.$"


def spoil_unexpected(folder):
    edit_weights(folder, lambda weights: {**weights, "vision_model.extra": torch.zeros(2)})
    return "1 weight is unexpected, such as .*extra.$"


def spoil_shape(folder):
    name = "vision_model.post_layernorm.bias"
    edit_weights(folder, lambda weights: {**weights, name: torch.zeros(2)})
    return "1 weight is not of the shape in config.json, such as .*post_layernorm.bias.$"


SPOILS = [found for name, found in sorted(globals().items()) if name.startswith("spoil_")]


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
def test_errors_are_one_line(spoil, tmp_path):
    folder = write_siglip(tmp_path / "siglip")
    message = spoil(folder)
    with pytest.raises(ValueError, match=message) as caught:
        read_vision(str(folder), 5 if spoil is spoil_tokens else None).load(torch.float32)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_no_image_tokens_are_not_the_default(tmp_path):
    with pytest.raises(ValueError, match="0 image tokens cannot be pooled"):
        read_vision(str(write_siglip(tmp_path / "siglip", "vision")), 0)
