"""A text-only Gemma 3 with a new vision encoder answers text as before, and reads images."""

import json

import pytest
import torch
from gguf_files import gguf_model, rounded, write_gguf
from safetensors.torch import load_file
from stock_checkpoints import (
    IMAGE_TOKENS,
    edit_json,
    edit_weights,
    init,
    stock_tokenizer,
    write_siglip,
    write_text_gemma,
)
from transformers import AutoTokenizer, Gemma3ForCausalLM, GemmaTokenizer, PreTrainedTokenizerFast

from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.checkpoints.sources.text_gemma import read_text_gemma
from gemma_lisa.checkpoints.sources.vision import read_vision

KINDS = ["with_image_token", "without_image_token", "gguf"]


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    return write_siglip(tmp_path_factory.mktemp("siglip"), "vision")


@pytest.fixture(scope="module", params=KINDS)
def source(request, tmp_path_factory):
    """(name of a text-only Gemma, its stock model, its stock tokenizer)"""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "gguf":
        pytest.importorskip("gguf", reason="the package gguf is not installed")
        name = write_gguf(folder / "tiny.gguf")
        return name, gguf_model(), GemmaTokenizer.from_pretrained(folder, gguf_file=name.name)
    write_text_gemma(folder, with_image_token=request.param == "with_image_token")
    return folder, Gemma3ForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def made(source, siglip, sam, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "start"
    return init(source[0], sam, folder, "--vision", str(siglip), "--image_tokens", "4", "--dtype", "float32")


@pytest.fixture(scope="module")
def opened(made):
    return load_checkpoint(made)


def test_logits_of_text_equal_those_of_gemma(source, opened):
    _, stock, _ = source
    ids = torch.randint(9, stock.config.vocab_size, (2, 20))  # longer than the sliding window
    with torch.no_grad():
        expected = stock.eval()(ids).logits
        found = opened[0](input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(found[..., : expected.shape[-1]], expected, atol=1e-5, rtol=1e-5)


def test_the_tokenizer_is_that_of_gemma_with_image_tokens_and_seg(source, opened):
    stock, tokenizer = source[2], opened[1].tokenizer
    for text in ("user the red circle", "it is\n\nhere. ", "赤い円"):
        assert tokenizer(text)["input_ids"] == stock(text)["input_ids"]
    config, size = opened[0].config, len(stock)
    image = stock.get_vocab().get("<image_soft_token>", size)
    assert config.image_token_index == tokenizer.convert_tokens_to_ids("<image_soft_token>") == image
    assert config.boi_token_index == stock.convert_tokens_to_ids("<start_of_image>") == tokenizer.boi_token_id
    assert config.seg_token_id == tokenizer.convert_tokens_to_ids("[SEG]") == max(size, image + 1)
    assert tokenizer("the [SEG]", add_special_tokens=False)["input_ids"][-1] == config.seg_token_id
    assert {kind: getattr(tokenizer, kind) for kind in IMAGE_TOKENS} == IMAGE_TOKENS


def test_the_embedding_grows_to_a_multiple_of_64_with_mean_rows(source, opened):
    old, new = source[1].get_input_embeddings().weight, opened[0].get_input_embeddings().weight
    assert len(new) % 64 == 0 and len(old) < len(new) < len(old) + 64
    assert opened[0].config.text_config.vocab_size == len(new) > opened[0].config.seg_token_id
    assert torch.equal(new[: len(old)], old)
    torch.testing.assert_close(new[len(old) :], old.mean(0).expand(len(new) - len(old), -1), atol=1e-5, rtol=0)
    assert opened[0].get_output_embeddings().weight is new


def test_the_image_changes_the_logits(opened, make_picture):
    model, processor = opened
    content = [{"type": "image", "image": make_picture()}, {"type": "text", "text": "the red"}]
    inputs = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=True, return_dict=True)
    names = ("input_ids", "attention_mask", "token_type_ids", "pixel_values")
    inputs = {name: inputs[name] for name in names}
    with torch.no_grad():
        logits, others = model(**inputs).logits, model(**{**inputs, "pixel_values": -inputs["pixel_values"]}).logits
    assert (logits - others).abs().max() > 1e-3


def test_stop_tokens_and_configuration_are_those_of_gemma(source, opened):
    stock, tokenizer = source[1].config, source[2]
    stops = tokenizer.convert_tokens_to_ids(["<eos>", "<end_of_turn>"])
    assert opened[0].generation_config.eos_token_id == stops
    found = opened[0].config.text_config
    for name in (
        "hidden_size",
        "layer_types",
        "rope_parameters",
        "sliding_window",
        "query_pre_attn_scalar",
        "head_dim",
    ):
        assert getattr(found, name) == getattr(stock, name), name
    assert found.rms_norm_eps == pytest.approx(stock.rms_norm_eps)


def test_no_local_path_is_written(source, made):
    for path in made.glob("*.json"):
        assert str(source[0].parent) not in path.read_text(), path.name


def test_a_gemma_with_spare_rows_does_not_grow(sam, siglip, tmp_path):
    text = write_text_gemma(tmp_path / "text", spare_rows=320 - len(stock_tokenizer(named=False)))
    model, _ = load_checkpoint(init(text, sam, tmp_path / "start", "--vision", str(siglip), "--dtype", "auto"))
    old = Gemma3ForCausalLM.from_pretrained(text).get_input_embeddings().weight
    assert len(old) == 320
    kept = [row for row in range(320) if row != model.config.seg_token_id]
    assert torch.equal(model.get_input_embeddings().weight[kept], old[kept])


def test_new_weights_depend_on_the_seed_only(sam, siglip, tmp_path):
    text = write_text_gemma(tmp_path / "text")
    first, again, other = (
        load_file(init(text, sam, tmp_path / name, "--vision", str(siglip), "--seed", seed) / "model.safetensors")
        for name, seed in (("first", "0"), ("again", "0"), ("other", "1"))
    )
    assert [name for name in first if not torch.equal(first[name], again[name])] == []
    differing = {name for name in first if not torch.equal(first[name], other[name])}
    assert {name.partition(".")[0] for name in differing if "multi_modal_projector" not in name} == {"seg_projector"}
    assert sum("multi_modal_projector" in name for name in differing) == 1


def test_the_report_names_what_is_new(siglip, sam, tmp_path, capsys):
    text = write_text_gemma(tmp_path / "text")
    init(text, sam, tmp_path / "start", "--vision", str(siglip))
    said = capsys.readouterr().out
    assert f"from {text} and {siglip}; images of 32 × 32 pixels with 16 tokens" in said
    assert "\n                 the projector of the vision encoder is new, random, must be trained\n" in said
    assert f"Loading the weights of {text} and {siglip}\nLoading the weights of SAM from {sam}\n" in said


# ---------------------------------------------------------------------------------------------------------------------
# GGUF files
# ---------------------------------------------------------------------------------------------------------------------
def test_quantized_weights_are_dequantized(siglip, sam, tmp_path, capsys):
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    name = write_gguf(tmp_path / "tiny.gguf", quantized=True)
    model, _ = load_checkpoint(init(name, sam, tmp_path / "start", "--vision", str(siglip), "--dtype", "auto"))
    assert model.dtype == torch.float32
    said = capsys.readouterr()
    assert "text weights are dequantized from the GGUF file" in said.out and "GGUF tensors" not in said.err
    for key, weight in gguf_model().model.named_parameters():
        found = model.model.language_model.get_parameter(key)
        expected = rounded(weight.detach()) if weight.ndim == 2 else weight
        torch.testing.assert_close(found[: len(weight)], expected, atol=1e-6, rtol=0)
        assert weight.ndim == 1 or not torch.equal(found[: len(weight)], weight)


def spoil_truncated(path):
    content = write_gguf(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def spoil_truncated_header(path):
    path.write_bytes(write_gguf(path).read_bytes()[:1000])


def spoil_few_bytes(path):
    path.write_bytes(b"GGUF\x03\x00\x00\x00")


def spoil_empty(path):
    path.write_bytes(b"")


def spoil_no_gguf(path):
    path.write_bytes(b"PK\x03\x04" + bytes(2000))


def spoil_llama(path):
    write_gguf(path, architecture="llama")
    return "a model of type 'llama'; expected Gemma 3 270M or 1B.$"


def spoil_unknown_architecture(path):
    write_gguf(path, architecture="gptj")
    return "the configuration cannot be read.*gptj"


def spoil_gemma_4b(path):
    write_gguf(path, layers=34)
    return "has 34 layers. transformers does not read the RoPE scaling of Gemma 3 4B to 27B from a GGUF file."


def spoil_missing_tensor(path):
    write_gguf(path, drop="blk.1.ffn_up.weight")
    return "1 weight is missing, such as model.layers.1.mlp.up_proj.weight.$"


SPOILS = [found for name, found in sorted(globals().items()) if name.startswith("spoil_")]


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
def test_errors_of_a_gguf_file_are_one_line(spoil, siglip, sam, tmp_path):
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    path = tmp_path / "tiny.gguf"
    message = spoil(path) or "cannot be read; the file is damaged, truncated or not a Gemma 3 "
    with pytest.raises(ValueError, match=message) as caught:
        init(path, sam, tmp_path / "start", "--vision", str(siglip))
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert not (tmp_path / "start").exists()


def test_a_gguf_file_without_the_package_says_what_to_install(siglip, sam, tmp_path, monkeypatch):
    monkeypatch.setattr("gemma_lisa.checkpoints.sources.text_gemma.is_gguf_available", lambda: False)
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="a GGUF file needs the package gguf. Install it with: pip install gguf$"):
        init(path, sam, tmp_path / "start", "--vision", str(siglip))


@pytest.mark.parametrize("more", [[], ["--vision", "missing.pth"], ["--vision", "SIGLIP", "--image_tokens", "3"]])
def test_other_errors_come_before_the_gguf_file_is_read(more, siglip, sam, tmp_path):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF")  # reading it would be an error
    more = [str(siglip) if option == "SIGLIP" else option for option in more]
    with pytest.raises(ValueError, match="reads text only. Add --vision|file does not exist|3 image tokens cannot"):
        init(path, sam, tmp_path / "start", *more)


# ---------------------------------------------------------------------------------------------------------------------
# Folders
# ---------------------------------------------------------------------------------------------------------------------
def test_missing_and_unexpected_weights_are_errors(siglip, tmp_path):
    folder = write_text_gemma(tmp_path / "text")
    whole = load_file(folder / "model.safetensors")
    source = read_text_gemma(str(folder), read_vision(str(siglip)))
    for edit, message in (
        (
            lambda weights: {k: v for k, v in weights.items() if "layers.0.mlp" not in k},
            "3 weights are missing, such as",
        ),
        (lambda weights: {**whole, "model.extra": torch.zeros(2)}, "1 weight is unexpected, such as model.extra.$"),
        (lambda weights: {**whole, "model.norm.weight": torch.zeros(2)}, "1 weight is not of the shape in config.json"),
    ):
        edit_weights(folder, edit)
        with pytest.raises(ValueError, match=f"^{folder}: {message}"):
            source.load(None, torch.float32, 0)


def test_a_tokenizer_of_another_model_is_an_error(siglip, tmp_path):
    folder = write_text_gemma(tmp_path / "text")
    fields = json.loads((folder / "tokenizer.json").read_text())
    for token in fields["added_tokens"]:
        token["content"] = token["content"].replace("_of_turn", "")
    fields["model"]["vocab"] = {key.replace("_of_turn", ""): value for key, value in fields["model"]["vocab"].items()}
    (folder / "tokenizer.json").write_text(json.dumps(fields))
    edit_json(folder / "tokenizer_config.json", extra_special_tokens=[])
    PreTrainedTokenizerFast.from_pretrained(folder)
    with pytest.raises(ValueError, match="the tokenizer has no <start_of_turn>, <end_of_turn>; expected"):
        read_text_gemma(str(folder), read_vision(str(siglip)))
