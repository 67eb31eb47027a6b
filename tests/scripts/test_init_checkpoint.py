"""init_checkpoint: what Gemma and SAM knew is there afterwards; what is not whole is refused without a trace."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

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
    randomize,
    stock_tokenizer,
    text_config,
    write_gemma,
    write_sam,
)
from transformers import (
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    SamConfig,
    SamModel,
)
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.processing_gemma_lisa import CHAT_TEMPLATE
from gemma_lisa.scripts.init_checkpoint import hub_names, main

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "init_checkpoint.py"


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    return write_gemma(tmp_path_factory.mktemp("gemma"))


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    return write_sam(tmp_path_factory.mktemp("sam"))


def make(gemma, sam, output, *more):
    main(["--gemma", str(gemma), "--sam", str(sam), "--output", str(output), *more])
    return output


@pytest.fixture(scope="module")
def made(gemma, sam, tmp_path_factory):
    return make(gemma, sam, tmp_path_factory.mktemp("made") / "start", "--dtype", "float32")


@pytest.fixture(scope="module")
def opened(made):
    return load_checkpoint(made)


@pytest.fixture
def copies(gemma, sam, tmp_path):
    """Copies of both checkpoints, to be spoiled."""
    return Path(shutil.copytree(gemma, tmp_path / "gemma")), Path(shutil.copytree(sam, tmp_path / "sam"))


@pytest.fixture(scope="module")
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))


# ---------------------------------------------------------------------------------------------------------------------
# What is kept
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("layout", ["google", "stock", "native"])
def test_language_logits_are_stock_gemmas(layout, sam, tmp_path, picture):
    gemma = write_gemma(tmp_path / "gemma", layout)
    names = set(load_file(gemma / "model.safetensors"))
    prefix = {"google": "vision_tower.vision_model.", "stock": "vision_tower.", "native": "model.vision_tower."}
    assert any(name.startswith(prefix[layout]) for name in names)
    assert "lm_head.weight" not in names

    model, processor = load_checkpoint(make(gemma, sam, tmp_path / "start", "--dtype", "float32"))
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
    assert (without_image.logits - expected).abs().max() > 1e-3, "the image makes no difference to this test"


def test_sams_embeddings_and_point_prompted_masks_are_stock_sams(opened, sam, picture):
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


def test_configuration_keeps_gemmas_and_sams_fields(opened, gemma, sam):
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


def test_processor_has_both_image_processors_and_the_projects_template(opened):
    processor = opened[1]
    assert type(processor.image_processor).__name__ == "Gemma3ImageProcessorPil"
    assert type(processor.sam_image_processor).__name__ == "SamImageProcessorPil"
    assert processor.image_seq_length == 4
    assert list(processor.sam_image_processor.image_mean) == [0.4, 0.5, 0.6]
    assert processor.chat_template == CHAT_TEMPLATE


def test_a_sam_file_gives_segment_anythings_masks(gemma, small_sam, small_sam_file, tmp_path, capsys):
    model, processor = load_checkpoint(make(gemma, small_sam_file, tmp_path / "start", "--dtype", "float32"))
    side = small_sam.image_encoder.img_size
    found = processor.sam_image_processor
    assert (found.size.longest_edge, found.pad_size.height, found.pad_size.width) == (side, side, side)
    assert "image processor made for its image size" in capsys.readouterr().out

    pixels, box = torch.randn(1, 3, side, side), torch.tensor([[8.0, 4.0, 50.0, 40.0]])
    with torch.no_grad():
        sparse, dense = small_sam.prompt_encoder(points=None, boxes=box, masks=None)
        expected, _ = small_sam.mask_decoder(
            small_sam.image_encoder(pixels), small_sam.prompt_encoder.get_dense_pe(), sparse, dense, True
        )
        masks = model.sam(pixel_values=pixels, input_boxes=box[None]).pred_masks[0]
    torch.testing.assert_close(masks, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_sam_file_is_taken_in_the_dtype_asked_for_but_for_the_code_of_places(
    dtype, gemma, small_sam, small_sam_file, tmp_path
):
    model, _ = load_checkpoint(make(gemma, small_sam_file, tmp_path / "start", "--dtype", dtype))
    code = model.sam.shared_image_embedding.positional_embedding
    assert torch.equal(code, small_sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix)
    others = {weight.dtype for weight in model.parameters() if weight is not code}
    assert others == {getattr(torch, dtype)}


# ---------------------------------------------------------------------------------------------------------------------
# What is new
# ---------------------------------------------------------------------------------------------------------------------
def test_seg_takes_a_spare_row_which_is_the_mean_of_the_real_ones(opened, gemma):
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
def test_a_tied_head_that_was_saved_all_the_same_is_no_left_over(name, copies, made, tmp_path):
    gemma, sam = copies
    edit_weights(gemma, lambda weights: {**weights, name: weights[EMBEDDING].clone()})
    model, _ = load_checkpoint(make(gemma, sam, tmp_path / "start", "--dtype", "float32"))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert set(load_file(tmp_path / "start" / "model.safetensors")) == set(load_file(made / "model.safetensors"))


def test_seg_projector_is_initialised_by_the_seed(opened, made, gemma, sam, tmp_path):
    other = load_file(make(gemma, sam, tmp_path / "other", "--dtype", "float32", "--seed", "1") / "model.safetensors")
    again = load_file(make(gemma, sam, tmp_path / "again", "--dtype", "float32", "--seed", "0") / "model.safetensors")
    first = load_file(made / "model.safetensors")
    assert {name for name in first if not torch.equal(first[name], again[name])} == set()
    differing = {name for name in first if not torch.equal(first[name], other[name])}
    assert differing == {"seg_projector.0.weight", "seg_projector.2.weight"}
    assert 0.025 < first["seg_projector.0.weight"].std() < 0.035  # the configuration's initializer_range, 0.03
    assert not first["seg_projector.0.bias"].any()


def test_a_token_that_was_there_keeps_its_id_and_row(sam, tmp_path, capsys):
    tokenizer = stock_tokenizer()
    tokenizer.add_tokens(["[SEG]", "[MORE]"], special_tokens=True)
    gemma = write_gemma(tmp_path / "gemma", tokenizer=tokenizer)
    model, processor = load_checkpoint(make(gemma, sam, tmp_path / "start", "--dtype", "float32"))
    seg = tokenizer.convert_tokens_to_ids("[SEG]")
    rows = Gemma3ForConditionalGeneration.from_pretrained(gemma).get_input_embeddings().weight
    assert model.config.seg_token_id == seg
    assert torch.equal(model.get_input_embeddings().weight, rows)
    assert "id and row are kept" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------------------
# The folder
# ---------------------------------------------------------------------------------------------------------------------
def test_opens_as_remote_code_and_answers(made, picture):
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
def test_all_weights_have_the_dtype_that_was_asked_for(asked, gemmas, expected, copies, tmp_path):
    gemma, sam = copies
    edit_weights(gemma, lambda weights: {name: weight.to(gemmas) for name, weight in weights.items()})
    edit_json(gemma / "config.json", dtype=str(gemmas).removeprefix("torch."))
    folder = make(gemma, sam, tmp_path / "start", "--dtype", asked, "--seg_state", "token")
    saved = load_file(folder / "model.safetensors")
    model, _ = load_checkpoint(folder)
    for weights in (saved, dict(model.named_parameters())):
        # SAM's code of the image's places
        constants = {name for name in weights if name.endswith("positional_embedding")}
        assert constants and {weights[name].dtype for name in constants} == {torch.float32}
        assert {weight.dtype for name, weight in weights.items() if name not in constants} == {expected}
    assert model.config.seg_state == "token"


def test_answers_end_where_gemmas_do(opened, sam, tmp_path):
    tokenizer = stock_tokenizer()
    stops = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")]
    found = opened[0].generation_config
    assert (found.eos_token_id, found.top_k, found.cache_implementation) == (stops, 64, "hybrid")

    gemma = write_gemma(tmp_path / "gemma", generation_config=False)
    model, _ = load_checkpoint(make(gemma, sam, tmp_path / "start"))
    assert model.generation_config.eos_token_id == stops
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


def test_sams_image_processor_is_made_for_its_size_where_it_has_none(copies, gemma, tmp_path, capsys):
    _, sam = copies
    (sam / "processor_config.json").unlink()
    _, processor = load_checkpoint(make(gemma, sam, tmp_path / "start"))
    found = processor.sam_image_processor
    assert found.size.longest_edge == SAM_SIDE
    assert (found.pad_size.height, found.pad_size.width) == (SAM_SIDE, SAM_SIDE)
    assert found.mask_size.longest_edge == SAM_SIDE // 2  # patches of 8 pixels, four mask pixels each way
    assert "image processor made for its image size" in capsys.readouterr().out


def test_an_image_processor_of_the_older_kind_is_read(copies, gemma, tmp_path):
    _, sam = copies
    nested = json.loads((sam / "processor_config.json").read_text())["image_processor"]
    (sam / "processor_config.json").unlink()
    (sam / "preprocessor_config.json").write_text(json.dumps(nested))
    _, processor = load_checkpoint(make(gemma, sam, tmp_path / "start"))
    assert list(processor.sam_image_processor.image_mean) == [0.4, 0.5, 0.6]


def test_the_report_says_what_came_from_where(gemma, sam, tmp_path, capsys):
    make(gemma, sam, tmp_path / "start")
    said = capsys.readouterr().out
    stock = Gemma3ForConditionalGeneration.from_pretrained(gemma), SamModel.from_pretrained(sam)
    for model in stock:
        weights = dict(model.named_parameters()).values()
        assert f"{len(weights):,} tensors, {sum(weight.numel() for weight in weights):,} parameters" in said
    num_tokens = len(stock_tokenizer())
    assert f"token {num_tokens} of {num_tokens + 7} rows" in said
    assert "bfloat16" in said and "random (seed 0)" in said


def test_what_it_was_made_of_is_kept_by_its_name_on_the_hub(opened, gemma):
    assert opened[0].config.base_models is None  # files here tell no name
    assert hub_names("google/gemma-3-4b-it", str(gemma)) == ["google/gemma-3-4b-it"]
    assert hub_names("google/gemma-3-4b-it", "facebook/sam-vit-huge") == [
        "google/gemma-3-4b-it",
        "facebook/sam-vit-huge",
    ]


def test_no_path_of_this_machine_is_written(made, gemma):
    for path in made.iterdir():
        if path.suffix in (".json", ".jinja"):
            assert str(gemma.parent) not in path.read_text() and str(made.parent) not in path.read_text(), path.name


# ---------------------------------------------------------------------------------------------------------------------
# What is refused
# ---------------------------------------------------------------------------------------------------------------------
def drop(name):
    return lambda weights: {key: weight for key, weight in weights.items() if key != name}


def spoil_gemma_missing(gemma, sam):
    edit_weights(gemma, drop("language_model.model.layers.1.mlp.up_proj.weight"))
    return "1 weights are missing, the first model.language_model.layers.1.mlp.up_proj.weight"


def spoil_gemma_left_over(gemma, sam):
    edit_weights(gemma, lambda weights: {**weights, "language_model.model.extra.weight": torch.zeros(2)})
    return "1 weights are left over, the first .*extra.weight"


def spoil_gemma_two_heads(gemma, sam):
    edit_weights(gemma, lambda weights: {**weights, "language_model.lm_head.weight": -weights[EMBEDDING]})
    return "ties lm_head to the embedding, but its weights hold two different ones"


def spoil_gemma_shape(gemma, sam):
    edit_weights(gemma, lambda weights: {**weights, "language_model.model.norm.weight": torch.zeros(2)})
    return "1 weights are of another shape than config.json says, the first model.language_model.norm.weight"


def spoil_sam_missing(gemma, sam):
    edit_weights(sam, drop("vision_encoder.pos_embed"))
    return "1 weights are missing, the first vision_encoder.pos_embed"


def spoil_sam_left_over(gemma, sam):
    edit_weights(sam, lambda weights: {**weights, "mask_decoder.extra": torch.zeros(2)})
    return "1 weights are left over, the first mask_decoder.extra"


def spoil_gemma_type(gemma, sam):
    edit_json(gemma / "config.json", model_type="gemma3n")
    return "type 'gemma3n'; expected 'gemma3', a Gemma 3 that sees images"


def spoil_gemma_text_only(gemma, sam):
    shutil.rmtree(gemma)
    tokenizer = stock_tokenizer()
    Gemma3ForCausalLM(text_config(tokenizer, len(tokenizer) + 8)).save_pretrained(gemma)
    tokenizer.save_pretrained(gemma)
    return "type 'gemma3_text'; expected 'gemma3'"


def spoil_gemma_quantised(gemma, sam):
    edit_json(gemma / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    return "quantised"


def spoil_gemma_gone(gemma, sam):
    shutil.rmtree(gemma)
    return "--gemma .*: no such folder"


def spoil_sam_gone(gemma, sam):
    (sam / "config.json").unlink()
    return "no config.json that names its type; expected 'sam'"


def spoil_sam_cut_off(gemma, sam):
    path = sam / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return "sam: no weights that can be read"


def spoil_sam_is_gemma(gemma, sam):
    shutil.rmtree(sam)
    shutil.copytree(gemma, sam)
    return "--sam .*type 'gemma3'; expected 'sam'"


def spoil_sam_two(gemma, sam):
    edit_json(sam / "config.json", model_type="sam2")
    return "type 'sam2'; expected 'sam'"


def spoil_sam_file(gemma, sam):
    shutil.rmtree(sam)
    sam.write_bytes(b"")
    return "sam: torch.save did not write it, or it is cut off; expected SAM's state dict"


def spoil_sam_file_of_another_model(gemma, sam):
    shutil.rmtree(sam)
    torch.save({"encoder.weight": torch.zeros(2)}, sam)
    return "no SAM, the first of its 1 entries is 'encoder.weight'"


def spoil_sam_size(gemma, sam):
    path = sam / "processor_config.json"
    nested = json.loads(path.read_text())["image_processor"]
    edit_json(path, image_processor={**nested, "size": {"longest_edge": 64}})
    return "longest edge 64 but .* 48"


def spoil_gemma_size(gemma, sam):
    path = gemma / "processor_config.json"
    nested = json.loads(path.read_text())["image_processor"]
    edit_json(path, image_processor={**nested, "size": {"height": 64, "width": 64}})
    return r"\(64, 64\) but .* \(32, 32\)"


def spoil_gemma_tokens(gemma, sam):
    edit_json(gemma / "config.json", image_token_index=3)
    return "<image_soft_token> is token 8 of the tokenizer but 3 in config.json"


def spoil_no_spare_row(gemma, sam):
    shutil.rmtree(gemma)
    write_gemma(gemma, spare_rows=0)
    num_tokens = len(stock_tokenizer())
    return rf"\[SEG\] would be token {num_tokens}, but the embedding's {num_tokens} rows end at {num_tokens - 1}"


SPOILS = [found for name, found in sorted(globals().items()) if name.startswith("spoil_")]


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
def test_refused_in_one_line_and_without_a_trace(spoil, copies, tmp_path):
    gemma, sam = copies
    message = spoil(gemma, sam)
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=message) as caught:
        make(gemma, sam, tmp_path / "start")
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_sam_file_that_is_not_there_is_not_looked_for_on_the_hub(gemma, tmp_path):
    with pytest.raises(ValueError, match="^--sam sam_vit_h_4b8939.pth: no such file.$"):
        make(gemma, "sam_vit_h_4b8939.pth", tmp_path / "start")


def test_the_last_spare_row_is_enough(sam, tmp_path):
    model, _ = load_checkpoint(make(write_gemma(tmp_path / "gemma", spare_rows=1), sam, tmp_path / "start"))
    assert model.config.seg_token_id == model.config.text_config.vocab_size - 1


def test_a_folder_that_holds_something_is_not_touched_but_an_empty_one_is_filled(gemma, sam, tmp_path):
    output = tmp_path / "start"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        make(gemma, sam, output)
    assert [path.name for path in output.iterdir()] == ["notes.txt"]
    (output / "notes.txt").unlink()
    assert (make(gemma, sam, output) / "model.safetensors").is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("no space left on device")])
def test_an_interrupted_run_leaves_nothing(error, gemma, sam, tmp_path, monkeypatch):
    def stop(*_, **__):
        assert len(list(tmp_path.glob(".start.*/model.safetensors"))) == 1, "the weights were not written yet"
        raise error

    monkeypatch.setattr("gemma_lisa.processing_gemma_lisa.GemmaLisaProcessor.save_pretrained", stop)
    with pytest.raises(error if isinstance(error, type) else type(error)):
        make(gemma, sam, tmp_path / "start")
    assert list(tmp_path.iterdir()) == []


def test_exit_codes_and_streams(copies, tmp_path):
    gemma, sam = copies
    spoil_sam_missing(gemma, sam)  # so that Gemma is loaded before it fails
    arguments = ["--gemma", gemma, "--sam", sam, "--output", tmp_path / "start"]
    failed = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)
    assert failed.returncode == 1
    assert [line for line in failed.stderr.splitlines() if line.startswith("error: ")] == [
        f"error: {sam}: 1 weights are missing, the first vision_encoder.pos_embed."
    ]
    assert "Traceback" not in failed.stderr
    assert "LOAD REPORT" not in failed.stderr, "all of SAM is said to be missing while Gemma loads"
    assert not (tmp_path / "start").exists()
    with pytest.raises(SystemExit, match="2"):
        main(["--gemma", str(gemma)])
