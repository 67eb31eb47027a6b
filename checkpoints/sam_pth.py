"""Read SAM from a `.pth` checkpoint of the segment_anything package into transformers' `SamModel`.

The two libraries build the same network under different names. Which size it is, ViT-B, L, H or another, the file does
not say: it follows from the shapes of its tensors. Only tensors are read; code that a file may hold is never run.
"""

import pickle
import re
import zipfile
from pathlib import Path

import torch
from transformers import SamConfig, SamModel

PARTS = ("image_encoder.", "prompt_encoder.", "mask_decoder.")
EXPECTED = "expected SAM's state dict as the segment_anything package publishes it (ViT-B, ViT-L or ViT-H)"

# transformers' name of a parameter to segment_anything's: all that apply, in this order.
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
    # The decoder's heads are perceptrons of three layers, of which transformers names the first and the last.
    (r"(iou_prediction_head|mlps\.\d+)\.layers\.0", r"\1.layers.1"),
    (r"(iou_prediction_head|mlps\.\d+)\.proj_in", r"\1.layers.0"),
    (r"(iou_prediction_head|mlps\.\d+)\.proj_out", r"\1.layers.2"),
)


def original_name(name: str) -> str:
    """What segment_anything calls the parameter `name` of transformers' `SamModel`."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _is_compressed(path: str | Path) -> bool:
    """Whether a zip has a compressed part: read, it could be a thousand times as large as the file."""
    with zipfile.ZipFile(path) as archive:
        return any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist())


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of the file by segment_anything's names; mapped, not read, unless the file is of torch's older kind.

    Raises:
        ValueError: not a file of tensors by name, or one that is cut off; something that is not SAM.
    """
    with open(path, "rb") as file:
        head = file.read(2)  # of a zip, or of a pickle
    try:
        # A zip that is cut off has lost its table of contents and is told from a whole one by that.
        if zipfile.is_zipfile(path) and _is_compressed(path):
            raise ValueError("it is compressed, and torch.save compresses nothing")
        state_dict = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # bytes of another kind can make the unpickler raise anything
        if isinstance(error, pickle.UnpicklingError) and (head == b"PK" or head[:1] == b"\x80"):
            raise ValueError(
                f"{path}: it holds objects beside tensors, and their code is not run; {EXPECTED}. If it is a SAM of "
                "yours, save it anew with torch.save(sam.state_dict(), ...)."
            ) from error
        raise ValueError(f"{path}: torch.save did not write it, or it is cut off; {EXPECTED}.") from error

    if not isinstance(state_dict, dict):
        raise ValueError(f"{path}: it holds a {type(state_dict).__name__}; {EXPECTED}.")
    for key, value in state_dict.items():
        if isinstance(value, dict) and any(str(name).endswith("image_encoder.pos_embed") for name in value):
            raise ValueError(
                f"{path}: a training checkpoint, its weights lie under {key!r}; save them alone: "
                f"torch.save(torch.load({str(path)!r}, map_location='cpu')[{key!r}], 'sam.pth')."
            )
    if not any(str(name).startswith(PARTS) for name in state_dict):
        first = next((f"the first of its {len(state_dict)} entries is {name!r}" for name in state_dict), "it is empty")
        raise ValueError(f"{path}: no SAM, {first}; {EXPECTED}.")
    for name, tensor in state_dict.items():
        is_tensor = isinstance(name, str) and isinstance(tensor, torch.Tensor)
        if not (is_tensor and tensor.is_cpu and tensor.is_floating_point() and tensor.layout == torch.strided):
            raise ValueError(f"{path}: {name} is no dense tensor of floating-point numbers; {EXPECTED}.")
    return state_dict


def config_of(state_dict: dict[str, torch.Tensor], path: str | Path) -> SamConfig:
    """The configuration that the tensors' shapes imply.

    The sizes of SAM differ in the image encoder only, all of which its tensors show: each layer's table of relative
    positions has 2 · side − 1 rows, where side is that of the whole grid of patches or of a window, and as many columns
    as a head has channels. The rest is that of every SAM, so its settings, some of which no tensor shows (the number of
    the decoder's heads), are transformers' defaults.

    Raises:
        ValueError: a tensor that tells is missing or has no such shape; tables of more than one size of window.
    """

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if name not in state_dict:
            raise ValueError(f"{path}: not a whole SAM, it has no {name}; {EXPECTED}.")
        found = tuple(state_dict[name].shape)
        if len(found) != rank or 0 in found:
            raise ValueError(f"{path}: {name} has shape {found}, which is not SAM's; {EXPECTED}.")
        return found

    hidden_size, _, patch_size, _ = shape("image_encoder.patch_embed.proj.weight", 4)
    _, grid, _, _ = shape("image_encoder.pos_embed", 4)  # patches along a side
    mlp_dim, _ = shape("image_encoder.blocks.0.mlp.lin1.weight", 2)
    blocks = [re.match(r"image_encoder\.blocks\.(\d+)\.", name) for name in state_dict]
    depth = 1 + max(int(block[1]) for block in blocks if block)
    tables = [shape(f"image_encoder.blocks.{layer}.attn.rel_pos_h", 2) for layer in range(depth)]
    sides = [(rows + 1) // 2 for rows, _ in tables]
    head_dim = tables[0][1]
    windows = sorted(set(sides) - {grid})
    if len(windows) > 1:
        raise ValueError(f"{path}: its layers have windows of {windows} patches; SAM's are of one size; {EXPECTED}.")
    if hidden_size % head_dim:
        raise ValueError(f"{path}: {hidden_size} channels make no whole heads of {head_dim}; {EXPECTED}.")

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
    """Configuration and tensors (by segment_anything's names) of a file in which every one has its place.

    Raises:
        ValueError: see `read_state_dict` and `config_of`; tensors that are missing, left over or of another shape.
    """
    state_dict = read_state_dict(path)
    config = config_of(state_dict, path)
    with torch.device("meta"):  # shapes without memory
        expected = {original_name(name): weight.shape for name, weight in SamModel(config).state_dict().items()}
    for names, what in (
        (sorted(expected.keys() - state_dict.keys()), "missing"),
        (sorted(state_dict.keys() - expected.keys()), "left over"),
        (sorted(name for name in expected.keys() & state_dict.keys() if state_dict[name].shape != expected[name]), ""),
    ):
        if names:
            found = what or f"of another shape than SAM's {tuple(expected[names[0]])}"
            raise ValueError(f"{path}: {len(names)} tensors are {found}, the first {names[0]}; {EXPECTED}.")
    return config, state_dict


def read_config(path: str | Path) -> SamConfig:
    """The configuration of the SAM in the file, after all its names and shapes were found right.

    Raises:
        ValueError: in one line, what the file is instead, or lacks.
    """
    return read_whole(path)[0]


@torch.no_grad()
def load_weights(model: SamModel, path: str | Path) -> None:
    """Copy the file's tensors into `model`, built from `read_config(path)`, in the dtype that its weights have.

    Beside the model there is at most one tensor at a time in memory that the system could not drop: the file is mapped.

    Raises:
        ValueError: as `read_config`.
    """
    _, state_dict = read_whole(path)
    for name, weight in model.named_parameters():  # what is tied, once
        weight.copy_(state_dict[original_name(name)])
