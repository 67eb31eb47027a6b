"""GemmaLisaConfig: the configuration of Gemma 3, with SAM's configuration and the settings of Gemma-LISA."""

from .versions_gemma_lisa import check_transformers  # noqa: F401 - first: it explains an import that fails

# isort: split
from typing import Any

from transformers import Gemma3Config, PreTrainedConfig, SamConfig

# File of SHA-256 checksums next to the weights, which the programs of this project write and check.
CHECKSUMS = "SHA256SUMS"
# Forms of the bridge between Gemma and SAM, see bridge_gemma_lisa.py.
BRIDGES = ("mlp", "heat_map")


class GemmaLisaConfig(Gemma3Config):
    """Configuration of `GemmaLisaForConditionalGeneration`.

    The fields of Gemma 3 (`text_config`, `vision_config`, `image_token_index`, ...) keep their places. A plain Gemma 3
    checkpoint can be loaded, and inference engines find `text_config`.
    """

    model_type = "gemma_lisa"
    sub_configs = {**Gemma3Config.sub_configs, "sam_config": SamConfig}

    # Configuration of SAM. None selects ViT-B.
    sam_config: PreTrainedConfig | dict[str, Any] | None = None
    # Token id of `[SEG]`: the first of the 63 unused embedding rows of Gemma 3 after <image_soft_token>.
    seg_token_id: int = 262_145
    # How the hidden state at [SEG] prompts SAM: "mlp" or "heat_map", see bridge_gemma_lisa.py.
    bridge: str = "mlp"
    # Hidden state that prompts SAM: "token" is the state at [SEG], "previous" is the state that predicts it. LISA
    # uses "previous". docs/design.md has the measurements behind the default.
    seg_state: str = "token"
    # Weights of the language, BCE and Dice losses, as in LISA (arXiv 2308.00692, section 4.1).
    ce_loss_weight: float = 1.0
    bce_loss_weight: float = 2.0
    dice_loss_weight: float = 0.5
    # Weight of the squared error between SAM's scores and the IoU of the masks, as in SAM's own training. With 0, the
    # scores are not trained and become inaccurate when the decoder is trained with [SEG].
    score_loss_weight: float = 0.0
    # Weight of the losses with simulated prompts (a point, a box, a corrected mask), which teach SAM's decoder to
    # follow a user's prompt. They are combined with the right [SEG], another one or none. 0 disables them.
    prompted_loss_weight: float = 0.0
    # Weight of the losses of the bridge's heat map, BCE and Dice with the weights above. Only "heat_map" has one.
    heat_map_loss_weight: float = 1.0
    # Mask losses are computed at the size of the image, but the long side is at most this many pixels.
    mask_loss_size: int = 1024
    # Hub names of the models that the weights were initialized from, for the model card. None: random weights.
    base_models: list[str] | None = None

    def __post_init__(self, **kwargs):
        if not isinstance(self.sam_config, PreTrainedConfig):
            self.sam_config = SamConfig(**(self.sam_config or {}))
        super().__post_init__(**kwargs)
        if self.bridge not in BRIDGES:
            raise ValueError(f'bridge must be "mlp" or "heat_map", got {self.bridge!r}.')
        if self.seg_state not in ("token", "previous"):
            raise ValueError(f'seg_state must be "token" or "previous", got {self.seg_state!r}.')


GemmaLisaConfig.register_for_auto_class()
