"""The wanted device is chosen, and a model that is spread over devices gives the same answers."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from gemma_lisa.checkpoints import devices
from gemma_lisa.checkpoints.loading import EXAMPLE, load_checkpoint

SCENE = Path(__file__).resolve().parents[2] / "docs" / "scene.png"


@pytest.mark.parametrize(
    ("wanted", "has_gpu", "chosen", "said"),
    [
        (None, False, torch.device("cpu"), "device: cpu (no GPU was found)"),
        (None, True, torch.device("cuda"), "device: cuda"),
        ("cpu", True, torch.device("cpu"), "device: cpu (a GPU is available but not used)"),
        ("cuda:1", True, torch.device("cuda:1"), "device: cuda:1"),
        ("auto", False, "auto", "device: auto, on the CPU (no GPU was found)"),
        ("auto", True, "auto", "device: auto, on 1 GPU"),
    ],
)
def test_the_wanted_device_or_a_gpu_is_chosen_and_printed(monkeypatch, capsys, wanted, has_gpu, chosen, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(has_gpu))
    assert devices.choose_device(wanted) == chosen
    assert capsys.readouterr().err == f"{said}\n"


@pytest.mark.parametrize("share", [0.7, 0.8, 0.9])
def test_a_model_that_does_not_fit_on_the_first_device_gives_the_same_answers(monkeypatch, share):
    model, processor = load_checkpoint(EXAMPLE)
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    monkeypatch.setattr(devices, "get_max_memory", lambda given: {"cpu": int(share * size), "disk": 10**12})
    spread, _ = load_checkpoint(EXAMPLE, device="auto")
    places = spread.hf_device_map
    assert {places["sam"], places["seg_projector"]} == {"cpu"} and "disk" in places.values()
    assert not [name for name in places if name.startswith(("sam.", "seg_projector."))]
    first, second = (one.start(SCENE, processor).ask("all the blue triangles") for one in (model, spread))
    assert first["raw_text"] == second["raw_text"] and len(first["masks"]) == 2
    assert (first["masks"] == second["masks"]).all()
    picture = {"type": "image", "image": Image.open(SCENE)}
    messages = [{"role": "user", "content": [picture, {"type": "text", "text": "all the blue triangles"}]}]
    inputs = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    (third,) = processor.post_process_segmentation(spread.segment(**inputs), inputs)
    assert (first["masks"] == third["masks"]).all()


def test_the_device_map_depends_on_the_type_of_the_weights():
    model, _ = load_checkpoint(EXAMPLE)
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    room = {"cpu": int(0.6 * size), "disk": 10**12}
    plans = [devices.spread(model.config, EXAMPLE, dtype, room) for dtype in ("auto", torch.bfloat16)]
    assert ["disk" in plan.values() for plan in plans] == [True, False]


def test_spreading_is_an_error_if_sam_does_not_fit_or_weights_are_quantized(monkeypatch):
    monkeypatch.setattr(devices, "get_max_memory", lambda given: {"cpu": 1000, "disk": 10**12})
    with pytest.raises(ValueError, match="SAM does not fit on the first device"):
        load_checkpoint(EXAMPLE, device="auto")
    with pytest.raises(ValueError, match="--device auto is not supported for quantized weights"):
        load_checkpoint(EXAMPLE, device="auto", load_in_4bit=True)
