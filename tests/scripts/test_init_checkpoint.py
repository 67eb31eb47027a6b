"""init_checkpoint.py keeps the weights of Gemma and SAM and adds [SEG] and seg_projector."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from stock_checkpoints import (
    EMBEDDING,
    SAM_SIDE,
    edit_json,
    edit_weights,
    init,
    randomize,
    stock_tokenizer,
    write_gemma,
)
from transformers import (
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    SamConfig,
    SamModel,
)
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.processing_gemma_lisa import CHAT_TEMPLATE
from gemma_lisa.scripts.init_checkpoint import hub_names


@pytest.fixture(scope="module")
def made(gemma, sam, tmp_path_factory):
    return init(gemma, sam, tmp_path_factory.mktemp("made") / "start", "--dtype", "float32")


@pytest.fixture(scope="module")
def opened(made):
    return load_checkpoint(made)


@pytest.fixture(scope="module")
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))


@pytest.mark.parametrize("layout", ["google", "stock", "native"])
def test_logits_equal_those_of_gemma(layout, sam, tmp_path, picture):
    gemma = write_gemma(tmp_path / "gemma", layout)
    names = set(load_file(gemma / "model.safetensors"))
    prefix = {"google": "vision_tower.vision_model.", "stock": "vision_tower.", "native": "model.vision_tower."}
    assert any(name.startswith(prefix[layout]) for name in names)
    assert "lm_head.weight" not in names

    model, processor = load_checkpoint(init(gemma, sam, tmp_path / "start", "--dtype", "float32"))
    stock = randomize(Gemma3ForConditionalGeneration(Gemma3Config.from_pretrained(gemma)), seed=1)
    messages = [
        {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "the red circle"}]}
    ]
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, add_generation_prompt=True)
    names = ("input_ids", "attention_mask", "token_type_ids", "pixel_values")
    seg = model.config.seg_token_id
    with torch.no_grad():
        expected = stock(**{name: inputs[name] for name in names}).logits
        found = model(**{name: inputs[name] for name in names}).logits
        without_image = stock(**{**{name: inputs[name] for name in names}, "pixel_values": -inputs["pixel_values"]})
    others = [token for token in range(expected.shape[-1]) if token != seg]  # the row of [SEG] is new
    torch.testing.assert_close(found[..., others], expected[..., others], atol=1e-5, rtol=0)
    assert (without_image.logits - expected).abs().max() > 1e-3, "the image does not change the logits"


def test_sam_gives_the_original_embeddings_and_masks(opened, sam, picture):
    model, processor = opened
    stock = SamModel.from_pretrained(sam).eval()
    image_processor = SamImageProcessorPil.from_pretrained(sam)
    pixel_values = image_processor([picture], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(processor.encode_images([picture])["sam_pixel_values"], pixel_values)

    points = torch.tensor([[[[10.0, 20.0]], [[30.0, 5.0]]]])  # (1 image, 2 prompts, 1 point, x y)
    with torch.no_grad():
        expected = stock(pixel_values=pixel_values, input_points=points)
        found = model.sam(pixel_values=pixel_values, input_points=points)
        torch.testing.assert_close(
            model.sam.get_image_embeddings(pixel_values), stock.get_image_embeddings(pixel_values), atol=1e-5, rtol=0
        )
    torch.testing.assert_close(found.pred_masks, expected.pred_masks, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.iou_scores, expected.iou_scores, atol=1e-5, rtol=0)
    assert expected.pred_masks.std() > 1e-4


def test_the_configuration_keeps_the_fields_of_gemma_and_sam(opened, gemma, sam):
    config = opened[0].config
    stock = Gemma3Config.from_pretrained(gemma)
    for name in ("mm_tokens_per_image", "boi_token_index", "eoi_token_index", "image_token_index", "initializer_range"):
        assert getattr(config, name) == getattr(stock, name)
    written_anew = {"dtype", "transformers_version"}
    for found, expected in (
        (config.text_config, stock.text_config),
        (config.vision_config, stock.vision_config),
        (config.sam_config.vision_config, SamConfig.from_pretrained(sam).vision_config),
        (config.sam_config.mask_decoder_config, SamConfig.from_pretrained(sam).mask_decoder_config),
    ):
        found, expected = found.to_dict(), expected.to_dict()
        assert {k: v for k, v in found.items() if k not in written_anew} == {
            k: v for k, v in expected.items() if k not in written_anew
        }


def test_the_processor_has_both_image_processors_and_the_chat_template_of_the_project(opened):
    processor = opened[1]
    assert type(processor.image_processor).__name__ == "Gemma3ImageProcessorPil"
    assert type(processor.sam_image_processor).__name__ == "SamImageProcessorPil"
    assert processor.image_seq_length == 4
    assert list(processor.sam_image_processor.image_mean) == [0.4, 0.5, 0.6]
    assert processor.chat_template == CHAT_TEMPLATE


def test_a_sam_file_gives_the_masks_of_segment_anything(gemma, small_sam, small_sam_file, tmp_path, capsys):
    model, processor = load_checkpoint(init(gemma, small_sam_file, tmp_path / "start", "--dtype", "float32"))
    side = small_sam.image_encoder.img_size
    found = processor.sam_image_processor
    assert (found.size.longest_edge, found.pad_size.height, found.pad_size.width) == (side, side, side)
    assert "with a new image processor for this size" in capsys.readouterr().out

    pixels, box = torch.randn(1, 3, side, side), torch.tensor([[8.0, 4.0, 50.0, 40.0]])
    with torch.no_grad():
        sparse, dense = small_sam.prompt_encoder(points=None, boxes=box, masks=None)
        expected, _ = small_sam.mask_decoder(
            small_sam.image_encoder(pixels), small_sam.prompt_encoder.get_dense_pe(), sparse, dense, True
        )
        masks = model.sam(pixel_values=pixels, input_boxes=box[None]).pred_masks[0]
    torch.testing.assert_close(masks, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_sam_file_is_loaded_in_the_given_type_except_its_positional_encoding(
    dtype, gemma, small_sam, small_sam_file, tmp_path
):
    model, _ = load_checkpoint(init(gemma, small_sam_file, tmp_path / "start", "--dtype", dtype))
    code = model.sam.shared_image_embedding.positional_embedding
    assert torch.equal(code, small_sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix)
    others = {weight.dtype for weight in model.parameters() if weight is not code}
    assert others == {getattr(torch, dtype)}


# ---------------------------------------------------------------------------------------------------------------------
# New weights
# ---------------------------------------------------------------------------------------------------------------------
def test_seg_uses_a_spare_row_with_the_mean_of_the_other_rows(opened, gemma):
    model, processor = opened
    seg, num_tokens = model.config.seg_token_id, len(stock_tokenizer())
    rows = Gemma3ForConditionalGeneration.from_pretrained(gemma).get_input_embeddings().weight
    embedding = model.get_input_embeddings().weight
    assert seg == processor.seg_token_id == num_tokens < len(rows)
    assert embedding.shape == rows.shape, "the embedding was resized"
    torch.testing.assert_close(embedding[seg], rows[:num_tokens].mean(0), atol=1e-6, rtol=0)
    kept = [row for row in range(len(rows)) if row != seg]
    assert torch.equal(embedding[kept], rows[kept])
    assert model.get_output_embeddings().weight is embedding
    assert processor.tokenizer("it is [SEG].", add_special_tokens=False)["input_ids"].count(seg) == 1
    assert processor.tokenizer.decode([seg], skip_special_tokens=True) == ""


def test_tied_weights_stay_tied(opened):
    sam = opened[0].sam
    shared = sam.shared_image_embedding.positional_embedding
    assert sam.prompt_encoder.shared_embedding.positional_embedding is shared


@pytest.mark.parametrize("name", ["lm_head.weight", "language_model.lm_head.weight"])
def test_a_tied_head_in_the_file_is_not_an_unexpected_weight(name, copies, made, tmp_path):
    gemma, sam = copies
    edit_weights(gemma, lambda weights: {**weights, name: weights[EMBEDDING].clone()})
    model, _ = load_checkpoint(init(gemma, sam, tmp_path / "start", "--dtype", "float32"))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert set(load_file(tmp_path / "start" / "model.safetensors")) == set(load_file(made / "model.safetensors"))


def test_seg_projector_depends_on_the_seed(opened, made, gemma, sam, tmp_path):
    other = load_file(init(gemma, sam, tmp_path / "other", "--dtype", "float32", "--seed", "1") / "model.safetensors")
    again = load_file(init(gemma, sam, tmp_path / "again", "--dtype", "float32", "--seed", "0") / "model.safetensors")
    first = load_file(made / "model.safetensors")
    assert {name for name in first if not torch.equal(first[name], again[name])} == set()
    differing = {name for name in first if not torch.equal(first[name], other[name])}
    assert differing == {name for name in first if name.startswith("seg_projector.")} and len(differing) == 4


def test_an_existing_seg_token_keeps_its_id_and_row(sam, tmp_path, capsys):
    tokenizer = stock_tokenizer()
    tokenizer.add_tokens(["[SEG]", "[MORE]"], special_tokens=True)
    gemma = write_gemma(tmp_path / "gemma", tokenizer=tokenizer)
    model, processor = load_checkpoint(init(gemma, sam, tmp_path / "start", "--dtype", "float32"))
    seg = tokenizer.convert_tokens_to_ids("[SEG]")
    rows = Gemma3ForConditionalGeneration.from_pretrained(gemma).get_input_embeddings().weight
    assert model.config.seg_token_id == seg
    assert torch.equal(model.get_input_embeddings().weight, rows)
    assert "already in the tokenizer; its id and row are kept" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------------------
# The output folder
# ---------------------------------------------------------------------------------------------------------------------
def test_the_checkpoint_loads_as_remote_code_and_answers(made, picture):
    processor = AutoProcessor.from_pretrained(made, trust_remote_code=True)
    model = AutoModel.from_pretrained(made, trust_remote_code=True)
    messages = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "where"}]}]
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, add_generation_prompt=True)
    output = model.segment(**inputs, max_new_tokens=3)
    assert output.sequences.shape[1] > inputs["input_ids"].shape[1]
    assert len(processor.post_process_segmentation(output, inputs)) == 1
    AutoTokenizer.from_pretrained(made)


@pytest.mark.parametrize(
    ("asked", "gemmas", "expected"),
    [
        ("bfloat16", torch.float32, torch.bfloat16),
        ("float32", torch.bfloat16, torch.float32),
        ("auto", torch.bfloat16, torch.bfloat16),
        ("auto", torch.float32, torch.float32),
    ],
)
def test_all_weights_have_the_given_type(asked, gemmas, expected, copies, tmp_path):
    gemma, sam = copies
    edit_weights(gemma, lambda weights: {name: weight.to(gemmas) for name, weight in weights.items()})
    edit_json(gemma / "config.json", dtype=str(gemmas).removeprefix("torch."))
    folder = init(gemma, sam, tmp_path / "start", "--dtype", asked, "--seg_state", "token")
    saved = load_file(folder / "model.safetensors")
    model, _ = load_checkpoint(folder)
    for weights in (saved, dict(model.named_parameters())):
        # SAM's positional encoding
        constants = {name for name in weights if name.endswith("positional_embedding")}
        assert constants and {weights[name].dtype for name in constants} == {torch.float32}
        assert {weight.dtype for name, weight in weights.items() if name not in constants} == {expected}
    assert model.config.seg_state == "token"


def test_answers_end_at_the_stop_tokens_of_gemma(opened, sam, tmp_path):
    tokenizer = stock_tokenizer()
    stops = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")]
    found = opened[0].generation_config
    assert (found.eos_token_id, found.top_k, found.cache_implementation) == (stops, 64, "hybrid")

    gemma = write_gemma(tmp_path / "gemma", generation_config=False)
    model, _ = load_checkpoint(init(gemma, sam, tmp_path / "start"))
    assert model.generation_config.eos_token_id == stops
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


def test_a_sam_without_an_image_processor_gets_one_for_its_image_size(copies, gemma, tmp_path, capsys):
    _, sam = copies
    (sam / "processor_config.json").unlink()
    _, processor = load_checkpoint(init(gemma, sam, tmp_path / "start"))
    found = processor.sam_image_processor
    assert found.size.longest_edge == SAM_SIDE
    assert (found.pad_size.height, found.pad_size.width) == (SAM_SIDE, SAM_SIDE)
    assert found.mask_size.longest_edge == SAM_SIDE // 2  # patches of 8 pixels, four mask pixels each way
    assert "with a new image processor for this size" in capsys.readouterr().out


def test_a_preprocessor_config_of_older_releases_is_read(copies, gemma, tmp_path):
    _, sam = copies
    nested = json.loads((sam / "processor_config.json").read_text())["image_processor"]
    (sam / "processor_config.json").unlink()
    (sam / "preprocessor_config.json").write_text(json.dumps(nested))
    _, processor = load_checkpoint(init(gemma, sam, tmp_path / "start"))
    assert list(processor.sam_image_processor.image_mean) == [0.4, 0.5, 0.6]


def test_the_report_lists_the_weights_of_each_source(gemma, sam, tmp_path, capsys):
    init(gemma, sam, tmp_path / "start")
    said = capsys.readouterr().out
    stock = Gemma3ForConditionalGeneration.from_pretrained(gemma), SamModel.from_pretrained(sam)
    for model in stock:
        weights = dict(model.named_parameters()).values()
        assert f"{len(weights):,} tensors, {sum(weight.numel() for weight in weights):,} parameters" in said
    num_tokens = len(stock_tokenizer())
    assert f"token {num_tokens} of {num_tokens + 7} rows" in said
    assert "bfloat16" in said and "random (seed 0)" in said


def test_the_hub_names_of_the_base_models_are_recorded(opened, gemma):
    assert opened[0].config.base_models is None  # local files have no Hub name
    assert hub_names("google/gemma-3-4b-it", str(gemma)) == ["google/gemma-3-4b-it"]
    assert hub_names("google/gemma-3-4b-it", "facebook/sam-vit-huge") == [
        "google/gemma-3-4b-it",
        "facebook/sam-vit-huge",
    ]


def test_no_local_path_is_written(made, gemma):
    for path in made.iterdir():
        if path.suffix in (".json", ".jinja"):
            assert str(gemma.parent) not in path.read_text() and str(made.parent) not in path.read_text(), path.name
