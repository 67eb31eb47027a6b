"""SAM from a `.pth` file gives the masks of the segment_anything package, or an error of one line."""

import os
import pickle
import resource
import time
import zipfile
from argparse import Namespace

import numpy as np
import pytest
import torch
from transformers import SamConfig, SamModel

from gemma_lisa.checkpoints.sam_pth import config_of, load_weights, original_name, read_config, read_state_dict

# Published sizes: transformers' configurations of facebook/sam-vit-base, -large and -huge.
VISION_CONFIGS = {
    "vit_b": dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, global_attn_indexes=[2, 5, 8, 11]),
    "vit_l": dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, global_attn_indexes=[5, 11, 17, 23]),
    "vit_h": dict(hidden_size=1280, num_hidden_layers=32, num_attention_heads=16, global_attn_indexes=[7, 15, 23, 31]),
}
on_request = pytest.mark.skipif(
    not os.environ.get("LARGE_SAM"),
    reason="takes minutes and gigabytes; LARGE_SAM=1 runs it, and -k vit_l only the smaller of the two",
)


# ---------------------------------------------------------------------------------------------------------------------
# The same masks
# ---------------------------------------------------------------------------------------------------------------------
def prompts_of(side):
    """Return name -> (points (P, N, 2), labels (P, N), boxes (P, 4), masks (1, 1, 4g, 4g)), each can be None."""
    points = torch.tensor([[[0.1, 0.7], [0.5, 0.2]], [[0.9, 0.9], [0.3, 0.4]]]) * side
    labels = torch.tensor([[1, 0], [1, 1]])
    boxes = torch.tensor([[0.2, 0.1, 0.6, 0.8], [0.0, 0.5, 0.9, 1.0]]) * side
    return {
        "points": (points, labels, None, None),
        "boxes": (None, None, boxes, None),
        "points in boxes": (points, labels, boxes, None),
        "a mask": (None, None, boxes[:1], "mask"),
    }


@torch.no_grad()
def outputs_of_original(sam, pixel_values):
    """Return name -> tensor of segment_anything."""
    generator = torch.Generator().manual_seed(2)
    encoder, decoder = sam.prompt_encoder, sam.mask_decoder
    image_embeddings = sam.image_encoder(pixel_values)
    outputs = {"image embeddings": image_embeddings}
    for name, (points, labels, boxes, masks) in prompts_of(pixel_values.shape[-1]).items():
        if masks is not None:
            masks = torch.randn(1, 1, *encoder.mask_input_size, generator=generator)
        prompts = encoder(points=None if points is None else (points, labels), boxes=boxes, masks=masks)
        for multimask in (False, True):
            kind = f"{name}, {'three masks' if multimask else 'one mask'}"
            outputs[kind], outputs[f"{kind}, scores"] = decoder(
                image_embeddings, encoder.get_dense_pe(), *prompts, multimask_output=multimask
            )
    return outputs


@torch.no_grad()
def outputs_of_imported(sam, pixel_values):
    """Return name -> tensor of transformers."""
    generator = torch.Generator().manual_seed(2)
    image_embeddings = sam.vision_encoder(pixel_values).last_hidden_state
    outputs = {"image embeddings": image_embeddings}
    for name, (points, labels, boxes, masks) in prompts_of(pixel_values.shape[-1]).items():
        if masks is not None:
            side = 4 * sam.config.prompt_encoder_config.image_embedding_size
            masks = torch.randn(1, 1, side, side, generator=generator)
        for multimask in (False, True):
            output = sam(
                image_embeddings=image_embeddings,
                input_points=None if points is None else points[None],
                input_labels=None if labels is None else labels[None],
                input_boxes=None if boxes is None else boxes[None],
                input_masks=masks,
                multimask_output=multimask,
            )
            kind = f"{name}, {'three masks' if multimask else 'one mask'}"
            outputs[kind], outputs[f"{kind}, scores"] = output.pred_masks[0], output.iou_scores[0]
    return outputs


def import_sam(path):
    """Load SAM in fp32 as init_checkpoint.py does."""
    sam = SamModel(read_config(path))
    load_weights(sam, path)
    return sam.eval()


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape, name
        assert "scores" in name or tensor.std() > 0.05, f"{name}: too uniform to show a difference"
    assert torch.cat([tensor.flatten() for name, tensor in expected.items() if "scores" in name]).std() > 0.05
    differences = {name: float((found[name] - tensor).abs().max()) for name, tensor in expected.items()}
    assert max(differences.values()) < 1e-4, differences
    return differences


def test_a_small_sam_gives_the_same_masks(small_sam, small_sam_file):
    pixel_values = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert_same(
        outputs_of_imported(import_sam(small_sam_file), pixel_values), outputs_of_original(small_sam, pixel_values)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "size", ["vit_b", pytest.param("vit_l", marks=on_request), pytest.param("vit_h", marks=on_request)]
)
def test_a_sam_of_real_size_gives_the_same_masks(size, segment_anything, randomize_sam, tmp_path):
    start = time.perf_counter()
    path = tmp_path / "weights.pth"  # the name does not contain the size
    pixel_values = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(1))
    original = randomize_sam(segment_anything.build_sam.sam_model_registry[size]())
    torch.save(original.state_dict(), path)
    expected = outputs_of_original(original, pixel_values)
    del original  # so that only one ViT-H is in memory
    found = outputs_of_imported(import_sam(path), pixel_values)
    path.unlink()  # pytest keeps the folders of its last runs
    differences = assert_same(found, expected)
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{size} differs by at most {differences.pop('image embeddings'):.1e} in the image embeddings, "
        f"{max(value for name, value in differences.items() if 'scores' not in name):.1e} in mask logits, "
        f"{max(value for name, value in differences.items() if 'scores' in name):.1e} in scores; "
        f"{seconds:.0f} s, peak {peak:.1f} GiB"
    )


# ---------------------------------------------------------------------------------------------------------------------
# The size from the shapes of the tensors
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", VISION_CONFIGS)
def test_published_sizes_have_the_published_configuration_and_names(size, segment_anything):
    with torch.device("meta"):
        state_dict = segment_anything.build_sam.sam_model_registry[size]().state_dict()
        config = config_of(state_dict, "sam.pth")
        names = [original_name(name) for name in SamModel(config).state_dict()]
    assert config.to_dict() == SamConfig(vision_config=VISION_CONFIGS[size]).to_dict()
    assert set(names) == set(state_dict)
    assert len(names) == len(state_dict) + 1  # transformers has the positional encoding twice


def test_another_size_is_computed_from_the_tensors(small_sam_file):
    config = read_config(small_sam_file)
    vision = config.vision_config
    assert (vision.image_size, vision.patch_size, vision.hidden_size, vision.mlp_dim) == (64, 8, 48, 96)
    assert (vision.num_hidden_layers, vision.num_attention_heads) == (5, 3)
    assert (vision.window_size, list(vision.global_attn_indexes)) == (3, [1, 4])
    assert config.prompt_encoder_config.image_embedding_size == 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("as_zip", [True, False])
def test_fp16_bf16_and_older_torch_files_are_loaded(dtype, as_zip, small_sam, tmp_path):
    state_dict = {name: tensor.to(dtype) for name, tensor in small_sam.state_dict().items()}
    torch.save(state_dict, tmp_path / "sam.pth", _use_new_zipfile_serialization=as_zip)
    sam = import_sam(tmp_path / "sam.pth")
    for name, weight in sam.named_parameters():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, state_dict[original_name(name)].float()), name


# ---------------------------------------------------------------------------------------------------------------------
# Errors
# ---------------------------------------------------------------------------------------------------------------------
def replace(**changes):
    """Return a writer of the state dict with tensors added, replaced or, with None, removed; `__` is a dot."""

    def write(state_dict, path):
        for name, tensor in changes.items():
            state_dict[name.replace("__", ".")] = tensor
        torch.save({name: tensor for name, tensor in state_dict.items() if tensor is not None}, path)

    return write


def save(content):
    return lambda state_dict, path: torch.save(content(state_dict) if callable(content) else content, path)


def write_bytes(content):
    return lambda state_dict, path: path.write_bytes(content)


def cut_off(share, as_zip):
    def write(state_dict, path):
        torch.save(state_dict, path, _use_new_zipfile_serialization=as_zip)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])

    return write


def test_a_compressed_file_is_an_error_before_it_is_read(small_sam_file, tmp_path, monkeypatch):
    path = tmp_path / "sam.pth"
    with zipfile.ZipFile(small_sam_file) as stored, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for part in stored.infolist():
            packed.writestr(part.filename, stored.read(part))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(ValueError, match="sam.pth: not a file of torch.save"):
        read_state_dict(path)


class Touch:
    """An object that creates a file when it is unpickled by code that runs it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


REFUSED = {
    "another model": (save({"layer.0.weight": torch.zeros(2)}), "not a SAM, because its first key is 'layer.0.wei"),
    "nothing": (save({}), "not a SAM, because it is empty"),
    "a tensor": (save(torch.zeros(3)), "it contains a Tensor; expected SAM's state dict"),
    "a list": (save([torch.zeros(3)]), "it contains a list"),
    "under model": (
        save(lambda weights: {"epoch": 3, "model": weights}),
        r"whose weights are under the key 'model'. Save only these with",
    ),
    "under state_dict": (save(lambda weights: {"state_dict": weights}), "whose weights are under the key 'state_dict'"),
    "SAM 2": (
        save({"model": {"image_encoder.trunk.pos_embed": torch.zeros(1, 2, 2, 4)}}),
        "not a SAM, because its first key is 'model'",
    ),
    "renamed": (
        save(lambda weights: {f"module.{name}": tensor for name, tensor in weights.items()}),
        "its first key is 'module.image_encoder.pos_embed'",
    ),
    "encoder only": (
        save(lambda weights: {name: value for name, value in weights.items() if name.startswith("image_encoder")}),
        "137 tensors are missing, such as mask_decoder.iou_prediction_head.layers.0.bias",
    ),
    "no encoder": (
        save(lambda weights: {name: value for name, value in weights.items() if "image_encoder" not in name}),
        "not a complete SAM, because it has no image_encoder.patch_embed.proj.weight",
    ),
    "one missing": (replace(mask_decoder__iou_token__weight=None), "1 tensor is missing, such as mask_decoder.iou"),
    "a layer missing": (
        replace(**{f"image_encoder__blocks__2__attn__rel_pos_{axis}": None for axis in "hw"}),
        "not a complete SAM, because it has no image_encoder.blocks.2.attn.rel_pos_h",
    ),
    "one left over": (
        replace(mask_decoder__hf_token__weight=torch.zeros(1, 256)),
        "1 tensor is unexpected, such as mask_decoder.hf_token.weight",
    ),
    "another shape": (
        replace(mask_decoder__iou_token__weight=torch.zeros(1, 128)),
        r"1 tensor is not of SAM's shape \(1, 256\), such as mask_decoder.iou_token.weight",
    ),
    "another rank": (
        replace(image_encoder__pos_embed=torch.zeros(1, 64, 48)),
        r"pos_embed has the wrong shape \(1, 64, 48\)",
    ),
    "not square": (
        replace(image_encoder__pos_embed=torch.zeros(1, 8, 4, 48)),
        r"not of SAM's shape \(1, 8, 8, 48\), such as image_encoder.pos_embed",
    ),
    "two sizes of window": (
        replace(image_encoder__blocks__0__attn__rel_pos_h=torch.zeros(9, 16)),
        "its layers have windows of 3, 5 patches",
    ),
    "an even table": (
        replace(image_encoder__blocks__0__attn__rel_pos_h=torch.zeros(6, 16)),
        r"not of SAM's shape \(5, 16\), such as image_encoder.blocks.0.attn.rel_pos_h",
    ),
    "no whole heads": (
        replace(image_encoder__blocks__0__attn__rel_pos_h=torch.zeros(5, 11)),
        "48 channels cannot be divided into heads of 11",
    ),
    "integers": (
        replace(mask_decoder__iou_token__weight=torch.zeros(1, 256, dtype=torch.int8)),
        "mask_decoder.iou_token.weight is not a dense floating-point tensor",
    ),
    "a number": (replace(mask_decoder__epoch=3), "mask_decoder.epoch is not a dense"),
    "an empty file": (write_bytes(b""), "not a file of torch.save, or the file is truncated"),
    "a text": (write_bytes(b"<html>not found</html>\n"), "not a file of torch.save, or the file is truncated"),
    "noise": (write_bytes(np.random.default_rng(0).bytes(5000)), "not a file of torch.save"),
    "half a zip": (cut_off(0.5, True), "not a file of torch.save, or the file is truncated"),
    "most of a zip": (cut_off(0.9999, True), "not a file of torch.save, or the file is truncated"),
    "half an older file": (cut_off(0.5, False), "not a file of torch.save, or the file is truncated"),
    "a module": (
        save(lambda weights: torch.nn.Linear(2, 2)),
        "it contains objects other than tensors, whose code is not run",
    ),
    "options": (
        save(lambda weights: {**weights, "args": Namespace(lr=1e-4)}),
        "it contains objects other than tensors",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_without_a_complete_sam_is_an_error_of_one_line(case, small_sam, tmp_path):
    write, message = REFUSED[case]
    path = tmp_path / "sam.pth"
    write(dict(small_sam.state_dict()), path)
    with pytest.raises(ValueError, match=message) as caught:
        read_config(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert "expected" in str(caught.value) or "Save only these" in str(caught.value), "there is no remedy"


@pytest.mark.parametrize("as_zip", [True, False])
def test_code_in_a_file_is_not_run(as_zip, tmp_path):
    path, trace = tmp_path / "sam.pth", tmp_path / "trace"
    torch.save({"weights": Touch(trace)}, path, _use_new_zipfile_serialization=as_zip)
    with pytest.raises(ValueError, match="it contains objects other than tensors, whose code is not run") as caught:
        read_config(path)
    assert "\n" not in str(caught.value)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Touch(trace))).close()
    assert trace.exists(), "the object does not run code, so this test proves nothing"
