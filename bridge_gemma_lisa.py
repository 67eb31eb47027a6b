"""The bridge between Gemma and SAM: it turns Gemma's state at each `[SEG]` into prompts of SAM's mask decoder.

`config.bridge` is the name of its form:

- "mlp": the state becomes one sparse prompt, as in LISA.
- "heat_map": the state is also compared with each place of the image. The resulting map is the mask prompt of SAM. The
  places are described by SAM's features, which are sharp, and by Gemma's image features, which know what things are.

Letters: S [SEG] tokens, I images, T image tokens, D Gemma's hidden size, C SAM's prompt size (256), H heads.
SAM's grid has 64 × 64 places, the default of SAM.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig

# Modules of measured numbers, which stay in fp32
BRIDGE_SCALES = ("state_scale", "sam_scale", "gemma_scale")
HEADS = 4
# Start of the map: most places do not belong to the object
FIRST_LOGIT = -1.8
# Logit of places outside the image, in the padding of SAM's square
PADDING_LOGIT = -50.0
# Added to a standard deviation before dividing by it, as a share of the mean one
LEAST_SPREAD = 1e-2


@dataclass
class SegStates:
    """Gemma's states at `[SEG]`, and the images that they are about.

    Args:
        states: (S, D), one for each `[SEG]`.
        image_index: (S,) index of the image of each `[SEG]`.
        image_embeddings: (I, C, 64, 64) SAM's encoding of the images; None until they are encoded.
        idle_state: (1, D) a state for the decoder if S is 0.
        image_features: (I, T, D) Gemma's encoding of the images. Only the bridge "heat_map" needs it.
        image_shares: (I, 2) shares of the height and width of SAM's square that the image covers. Only "heat_map".
    """

    states: torch.FloatTensor
    image_index: torch.LongTensor
    image_embeddings: torch.FloatTensor | None
    idle_state: torch.FloatTensor
    image_features: torch.FloatTensor | None = None
    image_shares: torch.FloatTensor | None = None

    def about(
        self, shown: torch.LongTensor, image_embeddings: torch.FloatTensor, image_index: torch.LongTensor
    ) -> "SegStates":
        """Return the states with only the images `shown` (J,), whose encodings are (J, C, 64, 64)."""
        given = (self.image_features, self.image_shares)
        features, shares = (None if one is None else one[shown.to(one.device)] for one in given)
        return SegStates(self.states, image_index, image_embeddings, self.idle_state, features, shares)


@dataclass
class SegPrompts:
    """Prompts of SAM's decoder.

    Args:
        embeddings: (S, C) sparse prompts.
        heat_maps: (S, 64, 64) logits on SAM's padded square, or None if the bridge has no heat map.
        mask_inputs: (S, 256, 256) the same as mask prompts of SAM, PADDING_LOGIT outside the image.
    """

    embeddings: torch.FloatTensor
    heat_maps: torch.FloatTensor | None = None
    mask_inputs: torch.FloatTensor | None = None

    def __getitem__(self, index: slice | torch.Tensor) -> "SegPrompts":
        """Return the prompts of some `[SEG]`."""
        parts = (self.embeddings, self.heat_maps, self.mask_inputs)
        return SegPrompts(*(None if part is None else part[index] for part in parts))


class SegProjector(nn.Sequential):
    """The bridge "mlp": map states (S, D) to sparse prompts (S, C) with Linear–ReLU–Linear, as in LISA."""

    def __init__(self, hidden_size: int, prompt_size: int):
        super().__init__(nn.Linear(hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, prompt_size))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the computation: that of the bias, because quantized weights are stored as bytes."""
        return self[0].bias.dtype


class Standardize(nn.Module):
    """Subtract the mean of each feature and divide by its standard deviation, measured once before training.

    Gemma's states at all `[SEG]` tokens are nearly equal. Their small differences carry the meaning. Without this
    module, a new projector learns the mean long before the differences.
    """

    def __init__(self, size: int):
        super().__init__()
        # Buffers, so that they are whole in every process, and never in the optimizer
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("spread", torch.ones(size))

    def forward(self, features: torch.FloatTensor) -> torch.FloatTensor:
        """Return features (..., size) with mean 0 and standard deviation 1."""
        return (features - self.mean.to(features)) / self.spread.to(features)

    @property
    def is_measured(self) -> bool:
        """Whether the numbers have been set; new modules have mean 0 and standard deviation 1."""
        return bool(self.mean.any()) or bool((self.spread != 1).any())

    @torch.no_grad()
    def reset(self) -> None:
        """Set mean 0 and standard deviation 1, those of a new module."""
        self.mean.zero_()
        self.spread.fill_(1)

    @torch.no_grad()
    def set_statistics(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        """Set the mean and the standard deviation of each feature, (size,) each."""
        self.mean.copy_(mean)
        self.spread.copy_(deviation + LEAST_SPREAD * deviation.mean().clamp(min=1e-6))


class HeatMapProjector(nn.Module):
    """The bridge "heat_map": a sparse prompt as that of "mlp", and a map of the places that fit the state.

    The map has the form of CoPRS (arXiv 2510.11173): queries from the state and keys from SAM's features. Two
    convolutions follow on the products of the heads. Gemma's image features give keys too.
    """

    def __init__(self, hidden_size: int, prompt_size: int):
        super().__init__()
        self.state_scale = Standardize(hidden_size)
        self.sam_scale = Standardize(prompt_size)
        self.gemma_scale = Standardize(hidden_size)
        self.sparse = SegProjector(hidden_size, prompt_size)
        self.query = nn.Linear(hidden_size, prompt_size)
        self.sam_key = nn.Linear(prompt_size, prompt_size)
        self.gemma_key = nn.Linear(hidden_size, prompt_size)
        self.mix = nn.Sequential(nn.Conv2d(HEADS, HEADS, 3, padding=1), nn.SiLU(), nn.Conv2d(HEADS, 1, 3, padding=1))

    @property
    def dtype(self) -> torch.dtype:
        return self.sparse.dtype

    def forward(self, seg: SegStates) -> SegPrompts:
        states = self.state_scale(seg.states.to(self.dtype))  # (S, D)
        embeddings, query = self.sparse(states), self.query(states)  # (S, C)
        image_index, side = seg.image_index.to(query.device), seg.image_embeddings.shape[-1]
        sam_features = seg.image_embeddings.to(query.device, self.dtype).flatten(2).mT  # (I, 64 * 64, C)
        gemma_features = seg.image_features.to(query.device, self.dtype)  # (I, T, D)
        by_sam = _compare(query, self.sam_key(self.sam_scale(sam_features)), image_index)  # (S, H, 64, 64)
        by_gemma = _compare(query, self.gemma_key(self.gemma_scale(gemma_features)), image_index)  # (S, H, √T, √T)
        shares = seg.image_shares.to(query.device, torch.float32)[image_index]  # (S, 2)
        maps = self.mix(by_sam + _on_square(by_gemma, shares, side).to(by_sam))[:, 0] + FIRST_LOGIT  # (S, 64, 64)
        large = F.interpolate(maps[:, None], scale_factor=4, mode="bilinear", align_corners=False)[
            :, 0
        ]  # (S, 256, 256)
        return SegPrompts(embeddings, maps, _pad(large, shares))


def shares_of_images(shares: torch.FloatTensor | None, image_of: torch.LongTensor) -> torch.FloatTensor | None:
    """Return `image_shares` of J images, from those of each conversation with an image; None for None.

    Args:
        shares: (B, 2).
        image_of: (B,) index of the image of each conversation.
    """
    if shares is None or len(image_of) == 0:
        return None
    of_images = shares.new_ones(int(image_of.max()) + 1, 2)
    of_images[image_of.to(shares.device)] = shares
    return of_images


def build_bridge(config: PreTrainedConfig) -> nn.Module:
    """Return the module for `config.bridge`, with random weights."""
    sizes = (config.text_config.hidden_size, config.sam_config.prompt_encoder_config.hidden_size)
    return SegProjector(*sizes) if config.bridge == "mlp" else HeatMapProjector(*sizes)


def project(bridge: nn.Module, seg: SegStates) -> SegPrompts:
    """Return the prompts of SAM's decoder for the states at `[SEG]`.

    Args:
        bridge: SegProjector or HeatMapProjector, also inside a wrapper of PEFT.
        seg: the states.

    Raises:
        ValueError: the bridge needs `image_features` or the sizes of the images, which are missing.
    """
    if not hasattr(bridge, "state_scale"):
        return SegPrompts(bridge(seg.states.to(bridge.dtype)))
    if seg.image_features is None:
        raise ValueError("The bridge needs pixel_values or image_features. Pass all outputs of the processor.")
    if seg.image_shares is None:
        raise ValueError("The bridge needs reshaped_input_sizes. Pass all outputs of the processor.")
    return bridge(seg)


def _compare(query: torch.FloatTensor, keys: torch.FloatTensor, image_index: torch.LongTensor) -> torch.FloatTensor:
    """Return scaled products of queries (S, C) with the keys (I, P, C) of their images: (S, H, √P, √P)."""
    count, places = len(query), keys.shape[1]
    heads = query.shape[1] // HEADS
    keys = keys.view(len(keys), places, HEADS, heads)[image_index]  # (S, P, H, C / H)
    products = torch.einsum("shc,sphc->shp", query.view(count, HEADS, heads), keys) * heads**-0.5
    side = int(places**0.5)
    return products.view(count, HEADS, side, side)


def _on_square(maps: torch.FloatTensor, shares: torch.FloatTensor, side: int) -> torch.FloatTensor:
    """Return maps (S, H, h, w) over whole images as maps (S, H, side, side) over SAM's square.

    Args:
        maps: one per `[SEG]`. Gemma sees the whole image, stretched to a square.
        shares: (S, 2) shares of the height and width of SAM's square that the image covers.
        side: places of SAM's grid in each direction. In the padding, the edge of the image is repeated.
    """
    places = (torch.arange(side, device=maps.device, dtype=shares.dtype) + 0.5) / side  # (side,)
    y, x = (2 * places / shares[:, axis : axis + 1] - 1 for axis in (0, 1))  # (S, side), −1 to 1 over the image
    places_of = [x[:, None, :].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)]
    grid = torch.stack(places_of, dim=-1)  # (S, side, side, 2)
    return F.grid_sample(maps.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


def _pad(maps: torch.FloatTensor, shares: torch.FloatTensor) -> torch.FloatTensor:
    """Return maps (S, h, w) with PADDING_LOGIT at the places outside the image."""
    side = maps.shape[-1]
    places = (torch.arange(side, device=maps.device, dtype=shares.dtype) + 0.5) / side  # (side,)
    is_inside = (places < shares[:, :1])[:, :, None] & (places < shares[:, 1:])[:, None, :]  # (S, h, w)
    return maps.masked_fill(~is_inside, PADDING_LOGIT)
