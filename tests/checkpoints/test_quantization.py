"""The language model in nf4 or int8, also with an adapter, and saved quantized weights."""

import pytest
import torch
from adapter_runs import ATTENTION, MLP, RANK, answers_of, of_text
from transformers import BitsAndBytesConfig

from gemma_lisa.checkpoints.loading import load_checkpoint, open_checkpoint
from gemma_lisa.checkpoints.lora import AdaptedGemmaLisa, count_weights, type_of
from gemma_lisa.checkpoints.quantization import check_quantization, quantization_config, quantization_of
from gemma_lisa.configuration_gemma_lisa import GemmaLisaConfig
from gemma_lisa.training.arguments import ModelArguments
from gemma_lisa.training.load_model import load_model


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        (None, None),
        ({"load_in_4bit": True, "quant_method": "bitsandbytes"}, "4 bits"),
        (BitsAndBytesConfig(load_in_8bit=True), "8 bits"),
        ({"quant_method": "gptq"}, "gptq"),
        ({"bits": 3}, "an unknown format"),
    ],
)
def test_the_quantization_of_saved_weights_is_recognized(saved, said):
    config = GemmaLisaConfig() if saved is None else GemmaLisaConfig(quantization_config=saved)
    assert quantization_of(config) == said
    check_quantization(config, "some/model", load_in_4bit=False, load_in_8bit=False)
    for option in ("load_in_4bit", "load_in_8bit"):
        asked = {"load_in_4bit": False, "load_in_8bit": False, option: True}
        if said is None:
            check_quantization(config, "some/model", **asked)
            continue
        with pytest.raises(
            ValueError, match=rf"some/model: its weights are already quantized \({said}\), so --{option} has no"
        ):
            check_quantization(config, "some/model", **asked)


@pytest.mark.parametrize("kind", ["load_in_4bit", "load_in_8bit"])
def test_an_adapter_trained_on_a_quantized_base_reloads_exactly_and_merges_into_the_original_base(
    train, base, batch, tiny, kind
):
    model, folder = train(lora_rank=RANK, **{kind: True})
    said = answers_of(model, batch)
    again, _ = load_checkpoint(folder, **{kind: True})
    assert isinstance(again, AdaptedGemmaLisa)
    assert torch.equal(answers_of(again, batch), said)

    merged, _ = load_checkpoint(folder)
    unmerged, _ = open_checkpoint(folder)
    assert isinstance(unmerged, AdaptedGemmaLisa) and not isinstance(merged, AdaptedGemmaLisa)
    difference = (answers_of(merged, batch) - answers_of(unmerged, batch)).abs().max()
    assert difference < 1e-5 * said.abs().max()
    assert (answers_of(tiny[0], batch) - said).abs().max() > 0.1 * said.abs().max()  # the adapter was trained


@pytest.mark.parametrize("kind", ["load_in_4bit", "load_in_8bit"])
def test_only_the_linear_layers_of_the_text_model_are_quantized(base, tiny, kind):
    model, _ = load_checkpoint(base, **{kind: True})
    wanted = "nf4" if kind == "load_in_4bit" else "int8"
    quantized = {name for name, parameter in model.named_parameters() if type_of(parameter) == wanted}
    assert quantized == of_text(tiny[0], ATTENTION | MLP)
    assert {type_of(p) for name, p in model.named_parameters() if name not in quantized} == {"fp32"}
    assert sum(map(count_weights, model.parameters())) == tiny[0].num_parameters()


def test_4_bits_and_8_bits_together_are_an_error():
    assert quantization_config(False, False) is None
    with pytest.raises(ValueError, match="choose one"):
        quantization_config(True, True)


def test_4_bit_layers_have_the_same_gradients_after_an_evaluation(base, batch):
    model, _ = load_model(ModelArguments(str(base), lora_rank=RANK, load_in_4bit=True), torch.bfloat16)
    gradients = []
    for _ in range(2):
        model.train()(**batch).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if "lora_B" in name})
        model.zero_grad()
        with torch.no_grad():
            model.eval()(**batch)
    first, again = gradients
    assert first and all(gradient.abs().max() > 0 for gradient in first.values())
    assert all(torch.equal(first[name], again[name]) for name in first)
