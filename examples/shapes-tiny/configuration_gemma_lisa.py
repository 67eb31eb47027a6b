"""GemmaLisaConfig: Gemma 3's own configuration, SAM's beside it, and the few numbers that join them."""

from .versions_gemma_lisa import check_transformers  # noqa: F401 - first: it explains what a name's absence means

# isort: split
from typing import Any

from transformers import Gemma3Config, PreTrainedConfig, SamConfig

# The file of SHA-256 checksums that this project's programs write beside weights, and check.
CHECKSUMS = "SHA256SUMS"


class GemmaLisaConfig(Gemma3Config):
    """Configuration of `GemmaLisaForConditionalGeneration`.

    Gemma 3's fields (`text_config`, `vision_config`, `image_token_index`, ...) stay where Gemma 3 has them, so that a
    plain Gemma 3 checkpoint loads and engines that look for `text_config` find it.
    """

    model_type = "gemma_lisa"
    sub_configs = {**Gemma3Config.sub_configs, "sam_config": SamConfig}

    # SAM's configuration; None builds ViT-B.
    sam_config: PreTrainedConfig | dict[str, Any] | None = None
    # Row of the embedding that `[SEG]` uses: the first of Gemma 3's 63 spare rows after <image_soft_token>.
    seg_token_id: int = 262_145
    # Which state prompts SAM: "token" = the state at [SEG], "previous" = the state that predicts it (LISA's code). The
    # measurements behind the default are in docs/design.md.
    seg_state: str = "token"
    # Weights of the three parts of the loss; LISA's (arXiv 2308.00692, section 4.1).
    ce_loss_weight: float = 1.0
    bce_loss_weight: float = 2.0
    dice_loss_weight: float = 0.5
    # Weight of the squared error of SAM's scores as estimates of each mask's IoU, as in SAM's own training; without it
    # they are what they were before the decoder was trained with [SEG].
    score_loss_weight: float = 0.0
    # Weight of the losses of masks that simulated prompts (a point, a box, a corrected mask) give beside the right
    # [SEG], another one and none: teaches SAM's decoder to follow a user's prompt. 0 simulates none.
    prompted_loss_weight: float = 0.0
    # Mask losses are taken at the image's own size, at most this many pixels on the long side.
    mask_loss_size: int = 1024
    # Hub names of the models whose weights the first checkpoint was made of, for the card; none: it began at random.
    base_models: list[str] | None = None

    def __post_init__(self, **kwargs):
        if not isinstance(self.sam_config, PreTrainedConfig):
            self.sam_config = SamConfig(**(self.sam_config or {}))
        super().__post_init__(**kwargs)
        if self.seg_state not in ("token", "previous"):
            raise ValueError(f'seg_state is {self.seg_state!r}; it must be "token" or "previous".')


GemmaLisaConfig.register_for_auto_class()
