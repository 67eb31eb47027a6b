"""Gemma-LISA: Gemma 3 looks and talks; the state at every `[SEG]` it writes prompts SAM's mask decoder.

Letters: B conversations, L tokens, I images, S [SEG] tokens, K masks of one image, D Gemma's hidden size, C SAM's
prompt size (256), V vocabulary, N labelled tokens. Sizes in pixels are Gemma 3's and SAM's; the configuration decides.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Gemma3ForConditionalGeneration, SamModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast

from .compatibility_gemma_lisa import CACHE_NAME, accept_new_fields, one_of, repeated_outputs, without_tied_copies
from .configuration_gemma_lisa import CHECKSUMS, GemmaLisaConfig
from .generation_gemma_lisa import SegmentationMixin
from .images_gemma_lisa import images_of_rows
from .losses_gemma_lisa import token_loss
from .mask_decoding_gemma_lisa import SegProjector, SegStates, decode_seg_states, loaded_device
from .packing_gemma_lisa import (
    Prepared,
    check_prepared,
    find_learned,
    find_positions,
    isolate_questions,
)
from .pipeline_gemma_lisa import custom_pipelines  # which also has transformers copy its file to every checkpoint
from .session_gemma_lisa import ImageSession
from .targets_gemma_lisa import MaskTargets, mask_losses, prompted_loss, targets_of_batch

# Parts of the loss, in the order of their weights.
LOSS_PARTS = ("language_loss", "mask_bce_loss", "mask_dice_loss", "score_loss", "prompted_loss")


@accept_new_fields
@dataclass
class GemmaLisaOutput(CausalLMOutputWithPast):
    """What `GemmaLisaForConditionalGeneration.forward` returns.

    `loss`, `logits`, `hidden_states`, `attentions` and the cache are those of transformers' class, under its names.

    Args:
        loss (`torch.FloatTensor` of shape `()`): weighted sum of the parts below, with `labels` or `mask_labels`.
        language_loss (`torch.FloatTensor` of shape `()`): cross-entropy over the labelled tokens, unweighted.
        mask_bce_loss (`torch.FloatTensor` of shape `()`): binary cross-entropy over the masks, unweighted.
        mask_dice_loss (`torch.FloatTensor` of shape `()`): Dice loss over the masks, unweighted.
        score_loss (`torch.FloatTensor` of shape `()`): squared error of `iou_scores` as estimates of the masks' IoU.
        prompted_loss (`torch.FloatTensor` of shape `()`): in training, if the configuration weighs it: both mask losses
            and the error of the scores, in their weights, of masks by simulated prompts, the mean of three kinds.
        logits (`torch.FloatTensor` of shape `(N, V)` with labels, else `(B, L, V)`): with labels only the positions
            that predict a labelled token, in order.
        pred_masks (`torch.FloatTensor` of shape `(S, 256, 256)`): mask logits on SAM's padded square.
        iou_scores (`torch.FloatTensor` of shape `(S,)`): SAM's own estimate of the IoU; uncalibrated until trained.
        seg_image_index (`torch.LongTensor` of shape `(S,)`): the image, 0 to I−1, that each mask belongs to.
        past_key_values (`Cache`): Gemma's keys and values; called `cache` since transformers 5.24.
        image_embeddings (`torch.FloatTensor` of shape `(I, 256, 64, 64)`): SAM's encoding of the images.
        last_hidden_state (`torch.FloatTensor` of shape `(B, L, D)`): Gemma's states that `logits` are made of; None
            with labels.
        hidden_states, attentions: Gemma's, when asked for.
    """

    language_loss: torch.FloatTensor | None = None
    mask_bce_loss: torch.FloatTensor | None = None
    mask_dice_loss: torch.FloatTensor | None = None
    score_loss: torch.FloatTensor | None = None
    prompted_loss: torch.FloatTensor | None = None
    pred_masks: torch.FloatTensor | None = None
    iou_scores: torch.FloatTensor | None = None
    seg_image_index: torch.LongTensor | None = None
    image_embeddings: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None


class GemmaLisaForConditionalGeneration(SegmentationMixin, Gemma3ForConditionalGeneration):
    """Gemma 3 with a SAM beside it and `seg_projector` between them. See `forward` and `segment`.

    `GemmaLisaCollator` makes a batch in which everything is found and checked before it is on the device. With its
    `prepared`, `forward` calls nothing that waits for the device, but for transformers' SAM encoder, which copies its
    relative positions there. Without it `forward` finds and checks the same itself, and waits.

    Args of `forward`:
        input_ids: (B, L).
        pixel_values: (I, 3, 896, 896) Gemma's images, in the order of the conversations that show one.
        attention_mask: (B, L), 1 = a token, 0 = padding.
        token_type_ids: (B, L), 1 = an image token. Needed with `pixel_values`: without it the tokens of an image
            could not see each other.
        labels: (B, L), IGNORE_INDEX = not learned. Gives `language_loss`; logits are then made only where learned.
        question_ids: (B, L), 0 = the prefix all see, k = the k-th question and its answer, −1 = padding. A token
            sees the prefix and its own question, and is positioned as if the others were not there.
        sam_pixel_values: (I, 3, 1024, 1024) SAM's images; or `image_embeddings` (I, 256, 64, 64), its encoding.
            With neither there are no masks. Where a run has the encoding cached, a batch without an image brings
            (0, 256, 64, 64): then no process runs the encoder, as none may run it alone.
        original_sizes, reshaped_input_sizes: (I, 2), (height, width) in pixels before and after SAM's resizing.
        mask_labels: list of I tensors (K_i, H_i, W_i) uint8: 0, 1 and IGNORE_VALUE, in the order of the `[SEG]`
            tokens. Gives the two mask losses.
        num_items_in_batch, num_masks_in_batch: what the sums of losses are divided by, if not by their own counts.
        prepared: `Prepared` of this batch, with its masks in place of `mask_labels`.
        cache: `past_key_values`, as transformers calls it since 5.24. Further keywords are passed to Gemma.

    Raises (`forward`):
        ValueError: inputs that do not belong together, with their counts.
    """

    config_class = GemmaLisaConfig
    config: GemmaLisaConfig
    # SAM's positional code of the image: sines of large arguments, which bf16 turns too coarsely; SAM has them in fp32
    _keep_in_fp32_modules_strict = {"shared_image_embedding", "shared_embedding"}
    # transformers never quantises these, whatever skips the quantisation config names. (Its other meaning, fp32 in a
    # model of fp16, does not arise: fp16 is refused.) Quantised, they give wrong masks without an error.
    _keep_in_fp32_modules = {"sam", "seg_projector", "lm_head", "model.vision_tower", "model.multi_modal_projector"}
    # The trainer counts tokens and masks of the whole step itself; see GemmaLisaTrainer.
    accepts_loss_kwargs = False

    def __init__(self, config: GemmaLisaConfig, *args, **kwargs):
        _check_dtype(torch.get_default_dtype())  # from_pretrained sets it while the model is built
        super().__init__(config, *args, **kwargs)
        self.sam = SamModel(config.sam_config)
        self.seg_projector = SegProjector(
            config.text_config.hidden_size, config.sam_config.prompt_encoder_config.hidden_size
        )
        self.post_init()

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | dict[str, torch.Tensor] | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        token_type_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        question_ids: torch.LongTensor | None = None,
        sam_pixel_values: torch.FloatTensor | None = None,
        image_embeddings: torch.FloatTensor | None = None,
        original_sizes: torch.LongTensor | None = None,
        reshaped_input_sizes: torch.LongTensor | None = None,
        mask_labels: list[torch.Tensor] | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        num_masks_in_batch: torch.Tensor | int | None = None,
        prepared: Prepared | None = None,
        cache: Cache | None = None,
        **kwargs,
    ) -> GemmaLisaOutput:
        """Read the batch with Gemma and decode its masks with SAM. The docstring of the class has all arguments."""
        self.refuse_fp16()
        has_sam_input = sam_pixel_values is not None or image_embeddings is not None
        prepared = check_prepared(prepared, input_ids, inputs_embeds, labels, mask_labels)
        has_targets = mask_labels is not None or prepared.mask_targets is not None
        learns = labels is not None or has_targets
        _check_tokens(input_ids, pixel_values, token_type_ids, question_ids, is_searched=learns or has_sam_input)
        # Look: first of all, so that every rank calls the modules in one order whatever its batch holds
        features, zero = self._look(pixel_values, blank=learns)
        kwargs |= {"attention_mask": attention_mask, "position_ids": position_ids, "token_type_ids": token_type_ids}
        kwargs |= {"use_cache": use_cache, CACHE_NAME: one_of(past_key_values=past_key_values, cache=cache)}
        outputs = self._read(input_ids, inputs_embeds, question_ids, features, prepared.image_positions, kwargs)
        # Talk
        states = outputs.last_hidden_state  # (B, L, D)
        parts = self._talk(states, labels, prepared.learned_positions, logits_to_keep, num_items_in_batch)
        # Point
        if has_sam_input or learns:
            if image_embeddings is None:
                image_embeddings = self.encode_for_sam(sam_pixel_values)
            seg = self._find_seg(states, image_embeddings, input_ids, prepared, has_sam_input)
            masks, scores, touched = self._decode_masks(seg)
            parts |= {"pred_masks": masks, "iou_scores": scores, "seg_image_index": seg.image_index}
        # Learn
        if learns:
            given = (mask_labels, prepared, reshaped_input_sizes)
            targets = targets_of_batch(seg.image_index, *given, self.config) if has_targets else None
            parts |= mask_losses(masks, scores, targets, num_masks_in_batch) if has_targets else {}
            parts = self._learn(parts, seg, masks, targets, num_masks_in_batch, zero + touched)
        image_embeddings = image_embeddings if has_sam_input else None
        return GemmaLisaOutput(**parts, image_embeddings=image_embeddings, **repeated_outputs(outputs))

    def refuse_fp16(self) -> None:
        """Raise where the model would compute in float16: its own type, or autocast's."""
        _check_dtype(self.dtype)
        device = self.lm_head.weight.device.type
        if device != "meta" and torch.is_autocast_enabled(device):
            _check_dtype(torch.get_autocast_dtype(device))

    def start(self, image: Any, processor) -> ImageSession:
        """A conversation about one image (PIL, path or bytes), which is encoded once: see `ImageSession`."""
        return ImageSession(self, processor, image)

    @property
    def stop_token_ids(self) -> list[int]:
        """The tokens that end an answer."""
        stops = self.generation_config.eos_token_id
        return stops if isinstance(stops, list) else [stops]

    def encode_for_sam(self, sam_pixel_values: torch.FloatTensor | None) -> torch.FloatTensor:
        """SAM's encoding of the images, (I, C, 64, 64); of one blank image where the batch shows none."""
        if sam_pixel_values is None:
            sam_pixel_values = self._blank(self.config.sam_config.vision_config.image_size)
        _refuse_bytes(sam_pixel_values)
        weight = self.sam.vision_encoder.patch_embed.projection.weight
        sam_pixel_values = sam_pixel_values.to(loaded_device(self.sam, weight.device), weight.dtype)
        return self.sam.vision_encoder(sam_pixel_values).last_hidden_state

    def project_seg(self, seg_hidden_states: torch.FloatTensor) -> torch.FloatTensor:
        """Gemma's states at `[SEG]`, (S, D), as prompts of SAM's decoder, (S, C)."""
        return self.seg_projector(seg_hidden_states.to(self.seg_projector.dtype))

    def save_pretrained(self, save_directory, is_main_process=True, state_dict=None, *args, **kwargs):
        """As in transformers, with the module's own names as keys.

        Gemma 3's Hub layout renames the language model, and Trainer, which loads a state dict by its keys, would then
        resume without it and only warn. A tied weight of a given `state_dict` is not saved where it is a copy of the
        weight it is tied to: engines hand over copies.
        """
        if state_dict is not None:
            state_dict = without_tied_copies(state_dict, self.get_expanded_tied_weights_keys(all_submodels=True))
        Path(save_directory, CHECKSUMS).unlink(missing_ok=True)  # they are of the weights that lay there
        # Both: transformers adds only the one of the class that opened the model
        _name_as_written(type(self))
        place = f"{__name__.rsplit('.', 1)[-1]}.{type(self).__name__}"
        self.config.auto_map = {"AutoModel": place, "AutoModelForImageTextToText": place}
        self.config.custom_pipelines = custom_pipelines()
        kwargs.setdefault("save_original_format", False)
        return super().save_pretrained(save_directory, is_main_process, state_dict, *args, **kwargs)

    def _look(
        self, pixel_values: torch.FloatTensor | None, blank: bool
    ) -> tuple[BaseModelOutputWithPooling | None, torch.Tensor | float]:
        """Gemma's image features; where the batch shows none but learns, those of a blank image, times zero."""
        if pixel_values is not None:
            _refuse_bytes(pixel_values)
            return self.model.get_image_features(pixel_values, return_dict=True), 0.0
        if not blank:
            return None, 0.0
        side = self.config.vision_config.image_size
        features = self.model.get_image_features(self._blank(side), return_dict=True)
        return None, features.pooler_output.float().sum() * 0.0

    def _read(
        self,
        input_ids: torch.LongTensor | None,
        inputs_embeds: torch.FloatTensor | None,
        question_ids: torch.LongTensor | None,
        features: BaseModelOutputWithPooling | None,
        image_positions: torch.LongTensor | None,
        inputs: dict[str, Any],
    ) -> BaseModelOutputWithPast:
        """Gemma's pass over the tokens (B, L) and image features (I, 256, D), with its states (B, L, D).

        `inputs` are its further arguments. Gemma finds the image tokens itself, which waits for the device, unless
        `image_positions` (I · 256,) are given.
        """
        if question_ids is not None:
            inputs["attention_mask"], inputs["position_ids"] = isolate_questions(
                question_ids,
                is_image=input_ids == self.config.image_token_id,
                text_config=self.config.text_config,
                dtype=self.dtype,
            )
            inputs["token_type_ids"] = None
        if image_positions is not None:
            inputs_embeds, input_ids = self._embed(input_ids, features, image_positions), None
        elif features is not None:
            inputs["mm_encoder_outputs"] = {"image": features}
        return self.model(input_ids=input_ids, inputs_embeds=inputs_embeds, **inputs)

    def _embed(
        self,
        input_ids: torch.LongTensor,
        features: BaseModelOutputWithPooling | None,
        image_positions: torch.LongTensor,
    ) -> torch.FloatTensor:
        """The embeddings of the tokens, (B, L, D), with the features of the images at the image tokens."""
        embeddings = self.get_input_embeddings()(input_ids)  # (B, L, D)
        if features is None:
            return embeddings
        features = features.pooler_output.flatten(0, 1).to(embeddings.device, embeddings.dtype)  # (I * 256, D)
        if len(features) != len(image_positions):
            raise ValueError(f"{len(image_positions)} image tokens but {len(features)} image features.")
        return embeddings.flatten(0, 1).index_copy(0, image_positions, features).view_as(embeddings)

    def _talk(
        self,
        states: torch.FloatTensor,
        labels: torch.LongTensor | None,
        learned_positions: torch.LongTensor | None,
        logits_to_keep: int | torch.Tensor,
        divisor: torch.Tensor | int | None,
    ) -> dict[str, torch.Tensor]:
        """Logits (B, L, V) of the states (B, L, D) to keep; with labels (N, V) where learned, and `language_loss`."""
        if labels is None:
            keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            return {"last_hidden_state": states[:, keep], "logits": self.lm_head(states[:, keep])}
        if learned_positions is None:
            learned_positions = find_learned(labels)  # (N,)
        logits = self.lm_head(states.flatten(0, 1)[learned_positions])  # V is 262,208: only where it is needed
        learned = labels.flatten()[learned_positions + 1]  # (N,)
        return {"logits": logits, "language_loss": token_loss(logits, learned, divisor)}

    def _blank(self, side: int) -> torch.FloatTensor:
        return torch.zeros(1, 3, side, side, device=loaded_device(self, self.device), dtype=self.dtype)

    def _find_seg(
        self,
        states: torch.FloatTensor,
        image_embeddings: torch.FloatTensor,
        input_ids: torch.LongTensor,
        prepared: Prepared,
        has_sam_input: bool,
    ) -> SegStates:
        """The states, of (B, L, D), that prompt SAM's decoder; none where SAM is shown nothing."""
        image_positions, seg_positions = prepared.image_positions, prepared.seg_positions
        image_of_row, has_image = images_of_rows(input_ids, self.config.image_token_id)
        length, tokens = input_ids.shape[1], self.config.mm_tokens_per_image
        if has_sam_input and not (image_positions is None and torch.compiler.is_compiling()):
            shown = int(has_image.sum()) if image_positions is None else len(image_positions) // tokens
            if len(image_embeddings) != shown:
                raise ValueError(
                    f"{len(image_embeddings)} images for SAM but {shown} conversations that show an image to Gemma."
                )
        if seg_positions is None:
            seg_positions = find_positions(input_ids == self.config.seg_token_id)  # (S,)
            is_astray = ~has_image[seg_positions // length]
            if not torch.compiler.is_compiling() and (astray := int(is_astray.sum())):
                raise ValueError(f"{astray} [SEG] tokens stand in conversations that show no image; a mask needs one.")
        if not has_sam_input:
            seg_positions = seg_positions[:0]
        return SegStates(
            states=states.flatten(0, 1)[seg_positions - int(self.config.seg_state == "previous")],
            image_index=image_of_row[seg_positions // length],
            image_embeddings=image_embeddings,
            idle_state=states[:1, 0],
        )

    def _decode_masks(
        self, seg: SegStates, multimask_output: bool = False, **prompts: torch.FloatTensor
    ) -> tuple[torch.FloatTensor, torch.FloatTensor, torch.Tensor]:
        """Mask logits (S, 256, 256), scores (S,), and a zero of all outputs, (): see `decode_seg_states`."""
        return decode_seg_states(self.sam, self.project_seg, seg, multimask_output, **prompts)

    def _learn(
        self,
        parts: dict[str, torch.Tensor | None],
        seg: SegStates,
        pred_masks: torch.FloatTensor,
        targets: MaskTargets | None,
        divisor: torch.Tensor | int | None,
        zero: torch.Tensor | float,
    ) -> dict[str, torch.Tensor]:
        """`prompted_loss` where it is learned, and `loss`: all parts, each (), in their weights, on top of `zero`."""
        config = self.config
        mask_weights = (config.bce_loss_weight, config.dice_loss_weight, config.score_loss_weight)
        if config.prompted_loss_weight and self.training:
            loss = prompted_loss(self._decode_masks, seg, pred_masks, targets, mask_weights, divisor)
            parts = parts | {"prompted_loss": loss}
        weights = (config.ce_loss_weight, *mask_weights, config.prompted_loss_weight)
        loss = zero
        for name, weight in zip(LOSS_PARTS, weights, strict=True):
            if parts.get(name) is not None:
                loss = loss + weight * parts[name]
        return parts | {"loss": loss}


def _check_tokens(
    input_ids: torch.LongTensor | None,
    pixel_values: torch.FloatTensor | None,
    token_type_ids: torch.LongTensor | None,
    question_ids: torch.LongTensor | None,
    is_searched: bool,
) -> None:
    """Raise where tokens (B, L) that are needed did not come."""
    if input_ids is None and is_searched:
        raise ValueError("inputs_embeds tell no [SEG] and no image from other tokens; pass input_ids.")
    if pixel_values is not None and token_type_ids is None and question_ids is None:
        raise ValueError("pixel_values came without token_type_ids: pass all that the processor returned.")


def _name_as_written(made: type) -> None:
    """Give the class that FSDP2 makes of the model's that one's name: the name tells which code opens a checkpoint."""
    written = GemmaLisaForConditionalGeneration
    if made.__name__ == f"FSDP{written.__name__}":
        made.__name__, made.__qualname__, made.__module__ = written.__name__, written.__qualname__, written.__module__


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype == torch.float16:
        raise ValueError("float16 is not supported: Gemma 3's activations exceed its range. Use dtype=torch.bfloat16.")


def _refuse_bytes(images: torch.Tensor) -> None:
    if images.dtype == torch.uint8:
        raise ValueError("The images are bytes; let processor.normalize_images(batch) make them what the towers take.")


GemmaLisaForConditionalGeneration.register_for_auto_class("AutoModel")
