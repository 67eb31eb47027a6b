"""Load SAM from a `.pth` checkpoint of the segment_anything package into transformers' `SamModel`.

The two libraries use different parameter names for the same network. The file does not state the size of the model
(ViT-B, L or H), so it is computed from the shapes of the tensors. Only tensors are loaded; code in a file is never run.
"""

import pickle
import re
import zipfile
from pathlib import Path

import torch
from transformers import SamConfig, SamModel

from gemma_lisa.safety.short_text import listed, name_of, show

PARTS = ("image_encoder.", "prompt_encoder.", "mask_decoder.")
EXPECTED = "expected SAM's state dict as the segment_anything package publishes it (ViT-B, ViT-L or ViT-H)"

# Parameter names of transformers -> names of segment_anything. All patterns are applied in this order.
RENAMES = (
    (
        r"^(shared_image_embedding|prompt_encoder\.shared_embedding)\.positional_embedding",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    ),
    (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"^vision_encoder\.", "image_encoder."),
    (r"patch_embed\.projection", "patch_embed.proj"),
    (r"neck\.conv1", "neck.0"),
    (r"neck\.layer_norm1", "neck.1"),
    (r"neck\.conv2", "neck.2"),
    (r"neck\.layer_norm2", "neck.3"),
    (r"\.point_embed\.", ".point_embeddings."),
    (r"mask_embed\.conv1", "mask_downscaling.0"),
    (r"mask_embed\.layer_norm1", "mask_downscaling.1"),
    (r"mask_embed\.conv2", "mask_downscaling.3"),
    (r"mask_embed\.layer_norm2", "mask_downscaling.4"),
    (r"mask_embed\.conv3", "mask_downscaling.6"),
    (r"upscale_conv1", "output_upscaling.0"),
    (r"upscale_layer_norm", "output_upscaling.1"),
    (r"upscale_conv2", "output_upscaling.3"),
    (r"layer_norm", "norm"),
    # The decoder's heads have three layers. transformers names the first and the last.
    (r"(iou_prediction_head|mlps\.\d+)\.layers\.0", r"\1.layers.1"),
    (r"(iou_prediction_head|mlps\.\d+)\.proj_in", r"\1.layers.0"),
    (r"(iou_prediction_head|mlps\.\d+)\.proj_out", r"\1.layers.2"),
)


def original_name(name: str) -> str:
    """Return segment_anything's name of a parameter of transformers' `SamModel`."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _is_compressed(path: str | Path) -> bool:
    """Return whether a zip file has a compressed part, which can be a thousand times as large as the file."""
    with zipfile.ZipFile(path) as archive:
        return any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist())


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file by segment_anything's names.

    They are memory-mapped, except for files in torch's format before 1.6, which are read.

    Raises:
        ValueError: the file is not a state dict, is truncated, or is not of SAM.
    """
    with open(path, "rb") as file:
        head = file.read(2)  # b"PK" of a zip file, or b"\x80" of a pickle
    try:
        # A truncated zip file has no table of contents, so is_zipfile is False
        if zipfile.is_zipfile(path) and _is_compressed(path):
            raise ValueError("it is compressed, but torch.save never compresses")
        state_dict = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # the unpickler can raise any exception for other bytes
        if isinstance(error, pickle.UnpicklingError) and (head == b"PK" or head[:1] == b"\x80"):
            raise ValueError(
                f"{path}: it contains objects other than tensors, whose code is not run; {EXPECTED}. If this is your "
                "own SAM, save it again with torch.save(sam.state_dict(), ...)."
            ) from error
        raise ValueError(f"{path}: not a file of torch.save, or the file is truncated; {EXPECTED}.") from error

    if not isinstance(state_dict, dict):
        raise ValueError(f"{path}: it contains a {type(state_dict).__name__}; {EXPECTED}.")
    for key, value in state_dict.items():
        if isinstance(value, dict) and any(str(name).endswith("image_encoder.pos_embed") for name in value):
            raise ValueError(
                f"{path}: a training checkpoint, whose weights are under the key {show(key)}. Save only these with "
                f"torch.save(torch.load({str(path)!r}, map_location='cpu')[{show(key)}], 'sam.pth')."
            )
    if not any(str(name).startswith(PARTS) for name in state_dict):
        first = next((f"its first key is {show(name)}" for name in state_dict), "it is empty")
        raise ValueError(f"{path}: not a SAM, because {first}; {EXPECTED}.")
    for name, tensor in state_dict.items():
        is_tensor = isinstance(name, str) and isinstance(tensor, torch.Tensor)
        if not (is_tensor and tensor.is_cpu and tensor.is_floating_point() and tensor.layout == torch.strided):
            raise ValueError(f"{path}: {name_of(name)} is not a dense floating-point tensor; {EXPECTED}.")
    return state_dict


def config_of(state_dict: dict[str, torch.Tensor], path: str | Path) -> SamConfig:
    """Return the configuration that follows from the shapes of the tensors.

    The sizes of SAM differ only in the image encoder. Each layer has a table of relative positions with 2 · side − 1
    rows and one column per channel of a head. Side is that of the whole grid of patches, or of a window.

    All other settings are the same for every SAM. Some cannot be computed from tensors, such as the number of heads of
    the decoder, so transformers' defaults are used.

    Raises:
        ValueError: a required tensor is missing or has another rank, or layers have different window sizes.
    """

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if name not in state_dict:
            raise ValueError(f"{path}: not a complete SAM, because it has no {name}; {EXPECTED}.")
        found = tuple(state_dict[name].shape)
        if len(found) != rank or 0 in found:
            raise ValueError(f"{path}: {name} has the wrong shape {found}; {EXPECTED}.")
        return found

    hidden_size, _, patch_size, _ = shape("image_encoder.patch_embed.proj.weight", 4)
    _, grid, _, _ = shape("image_encoder.pos_embed", 4)  # patches per side
    mlp_dim, _ = shape("image_encoder.blocks.0.mlp.lin1.weight", 2)
    blocks = [re.match(r"image_encoder\.blocks\.(\d+)\.", name) for name in state_dict]
    depth = 1 + max(int(block[1]) for block in blocks if block)
    tables = [shape(f"image_encoder.blocks.{layer}.attn.rel_pos_h", 2) for layer in range(depth)]
    sides = [(rows + 1) // 2 for rows, _ in tables]
    head_dim = tables[0][1]
    windows = sorted(set(sides) - {grid})
    if len(windows) > 1:
        raise ValueError(
            f"{path}: its layers have windows of {listed(windows)} patches, but SAM has one window size; {EXPECTED}."
        )
    if hidden_size % head_dim:
        raise ValueError(f"{path}: {hidden_size} channels cannot be divided into heads of {head_dim}; {EXPECTED}.")

    image_size = grid * patch_size
    return SamConfig(
        vision_config=dict(
            hidden_size=hidden_size,
            num_hidden_layers=depth,
            num_attention_heads=hidden_size // head_dim,
            mlp_dim=mlp_dim,
            mlp_ratio=mlp_dim / hidden_size,
            image_size=image_size,
            patch_size=patch_size,
            window_size=windows[0] if windows else 0,
            global_attn_indexes=[layer for layer, side in enumerate(sides) if side == grid],
        ),
        prompt_encoder_config=dict(image_size=image_size, patch_size=patch_size),
    )


def read_whole(path: str | Path) -> tuple[SamConfig, dict[str, torch.Tensor]]:
    """Return the configuration and the tensors (by segment_anything's names) of a complete SAM.

    Raises:
        ValueError: tensors are missing, unexpected or of the wrong shape; see also `read_state_dict` and `config_of`.
    """
    state_dict = read_state_dict(path)
    config = config_of(state_dict, path)
    with torch.device("meta"):  # shapes without memory
        expected = {original_name(name): weight.shape for name, weight in SamModel(config).state_dict().items()}
    for names, what in (
        (sorted(expected.keys() - state_dict.keys()), "missing"),
        (sorted(state_dict.keys() - expected.keys()), "unexpected"),
        (sorted(name for name in expected.keys() & state_dict.keys() if state_dict[name].shape != expected[name]), ""),
    ):
        if names:
            found = what or f"not of SAM's shape {tuple(expected[names[0]])}"
            count = "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"
            raise ValueError(f"{path}: {count} {found}, such as {name_of(names[0])}; {EXPECTED}.")
    return config, state_dict


def read_config(path: str | Path) -> SamConfig:
    """Return the configuration of the SAM in a file, after a check of all names and shapes.

    Raises:
        ValueError: the file is not a complete SAM.
    """
    return read_whole(path)[0]


@torch.no_grad()
def load_weights(model: SamModel, path: str | Path) -> None:
    """Copy the tensors of a file into `model`, which was built from `read_config(path)`. Its dtype does not change.

    The file is memory-mapped, so copying needs no extra memory for a second set of weights.

    Raises:
        ValueError: see `read_config`.
    """
    _, state_dict = read_whole(path)
    for name, weight in model.named_parameters():  # tied weights only once
        weight.copy_(state_dict[original_name(name)])
