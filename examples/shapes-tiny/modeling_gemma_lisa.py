"""Gemma-LISA: Gemma 3 answers, and its hidden state at each `[SEG]` of the answer prompts SAM's mask decoder.

Letters: B conversations, L tokens, I images, S [SEG] tokens, K masks of one image, N labelled tokens.
Sizes: D of Gemma's hidden states, C of SAM's prompts (256), V of the vocabulary.
Sizes in pixels are the defaults of Gemma 3 and SAM.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import Gemma3ForConditionalGeneration, SamModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling

from .bridge_gemma_lisa import BRIDGE_SCALES, SegStates, build_bridge
from .compatibility_gemma_lisa import CACHE_NAME, one_of, repeated_outputs, without_tied_copies
from .configuration_gemma_lisa import CHECKSUMS, GemmaLisaConfig
from .generation_gemma_lisa import SegmentationMixin
from .images_gemma_lisa import images_of_rows
from .losses_gemma_lisa import token_loss
from .mask_decoding_gemma_lisa import DecodedMasks, decode_seg_states, loaded_device
from .outputs_gemma_lisa import LOSS_PARTS, GemmaLisaOutput
from .packing_gemma_lisa import (
    Prepared,
    check_prepared,
    check_tokens,
    find_learned,
    find_positions,
    isolate_questions,
    put_image_features,
)
from .pipeline_gemma_lisa import custom_pipelines  # the import makes transformers copy the file to every checkpoint
from .sam_layers_gemma_lisa import use_fast_layers
from .session_gemma_lisa import ImageSession
from .targets_gemma_lisa import losses_of_masks, prompted_loss, targets_of_batch


class GemmaLisaForConditionalGeneration(SegmentationMixin, Gemma3ForConditionalGeneration):
    """Gemma 3 and SAM, connected by `seg_projector`. See `forward` and `segment`.

    `GemmaLisaCollator` locates and checks everything on the CPU. With its `prepared`, `forward` has no GPU
    synchronization, except in the SAM encoder of transformers. Without it, `forward` does the same work and
    synchronizes.

    Args of `forward`:
        input_ids: (B, L).
        pixel_values: (I, 3, 896, 896) images for Gemma, in the order of the conversations that have one.
        attention_mask: (B, L), 1 for tokens, 0 for padding.
        token_type_ids: (B, L), 1 for image tokens. Required with `pixel_values`, because the tokens of an image
            attend to each other.
        labels: (B, L), IGNORE_INDEX for tokens without loss. Enables `language_loss`; logits are then computed only
            where there is a label.
        question_ids: (B, L), 0 for the shared prefix, k for the k-th question and its answer, −1 for padding. A token
            attends to the prefix and its own question, and its position does not count other questions.
        image_features: (I, 256, D) encoding of the images for Gemma, from `encode_for_gemma`, instead of
            `pixel_values`.
        sam_pixel_values: (I, 3, 1024, 1024) images for SAM; or `image_embeddings` (I, 256, 64, 64), SAM's encoding.
            Without both, there are no masks. If a run caches encodings, a batch without images must pass
            (0, 256, D) and (0, 256, 64, 64), so that no rank runs an encoder alone.
        original_sizes, reshaped_input_sizes: (I, 2), (height, width) in pixels before and after SAM's resizing.
        mask_labels: list of I tensors (K_i, H_i, W_i) uint8: 0, 1 and IGNORE_VALUE, in the order of the `[SEG]`
            tokens. Enables the two mask losses.
        seg_states: states at `[SEG]` of an earlier pass. The language model does not run, and there are no tokens.
        num_items_in_batch, num_masks_in_batch: divisors of the summed losses (default: the counts of this batch).
        prepared: `Prepared` of this batch, including masks that replace `mask_labels`.
        cache: name of `past_key_values` since transformers 5.24. Further keyword arguments are passed to Gemma.

    Raises (`forward`):
        ValueError: inputs whose counts do not match.
    """

    config_class = GemmaLisaConfig
    config: GemmaLisaConfig
    # SAM's positional embedding needs fp32: it takes sines of large arguments, for which bf16 is too coarse
    _keep_in_fp32_modules_strict = {"shared_image_embedding", "shared_embedding", *BRIDGE_SCALES}
    # transformers never quantizes these modules; quantized, they would silently give wrong masks.
    # (The other effect, fp32 in fp16 models, does not apply.)
    _keep_in_fp32_modules = {"sam", "seg_projector", "lm_head", "model.vision_tower", "model.multi_modal_projector"}
    # GemmaLisaTrainer itself counts the tokens and masks of the global batch
    accepts_loss_kwargs = False

    def __init__(self, config: GemmaLisaConfig, *args, **kwargs):
        _check_dtype(torch.get_default_dtype())  # from_pretrained sets it while the model is built
        super().__init__(config, *args, **kwargs)
        self.sam = SamModel(config.sam_config)
        use_fast_layers(self.sam)
        self.seg_projector = build_bridge(config)
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
        image_features: torch.FloatTensor | None = None,
        image_embeddings: torch.FloatTensor | None = None,
        original_sizes: torch.LongTensor | None = None,
        reshaped_input_sizes: torch.LongTensor | None = None,
        mask_labels: list[torch.Tensor] | None = None,
        seg_states: SegStates | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        num_masks_in_batch: torch.Tensor | int | None = None,
        prepared: Prepared | None = None,
        cache: Cache | None = None,
        **kwargs,
    ) -> GemmaLisaOutput:
        """Run Gemma on the batch and decode its masks with SAM. The docstring of the class describes all arguments."""
        self.refuse_fp16()
        has_sam_input = sam_pixel_values is not None or image_embeddings is not None
        prepared = check_prepared(prepared, input_ids, inputs_embeds, labels, mask_labels)
        has_targets = mask_labels is not None or prepared.mask_targets is not None
        learns = labels is not None or has_targets
        if seg_states is None:
            images = one_of(pixel_values=pixel_values, image_features=image_features)
            check_tokens(input_ids, images, token_type_ids, question_ids, is_searched=learns or has_sam_input)
        # Images first, so that every rank calls the modules in the same order for every batch
        features, zero = self._encode_images(pixel_values, image_features, blank=learns)
        use_cache = False if learns and use_cache is None else use_cache
        kwargs |= {"attention_mask": attention_mask, "position_ids": position_ids, "token_type_ids": token_type_ids}
        kwargs |= {"use_cache": use_cache, CACHE_NAME: one_of(past_key_values=past_key_values, cache=cache)}
        parts, outputs = {}, {}
        if seg_states is None:
            given = (question_ids, features, prepared.image_positions, kwargs)
            outputs = self._run_gemma(input_ids, inputs_embeds, *given)
            states = outputs.last_hidden_state  # (B, L, D)
            parts = self._predict_tokens(states, labels, prepared.learned_positions, logits_to_keep, num_items_in_batch)
        if has_sam_input or learns:
            if image_embeddings is None:
                image_embeddings = self.encode_for_sam(sam_pixel_values)
            seg = seg_states or self._find_seg(states, image_embeddings, input_ids, prepared, has_sam_input)
            shares = self.image_shares(reshaped_input_sizes, is_needed=has_sam_input)
            seg = replace(seg, image_embeddings=image_embeddings, image_features=features, image_shares=shares)
            decoded = self._decode_masks(seg)
            parts |= {"pred_masks": decoded.masks, "iou_scores": decoded.scores, "heat_maps": decoded.heat_maps}
            parts |= {"seg_image_index": seg.image_index}
        if learns:
            given = (mask_labels, prepared, reshaped_input_sizes) if has_targets else None
            parts = self._learn(parts, seg, decoded, given, num_masks_in_batch, zero)
        parts |= {"image_embeddings": image_embeddings if has_sam_input else None}
        return GemmaLisaOutput(**parts, **repeated_outputs(outputs))

    def refuse_fp16(self) -> None:
        """Raise ValueError if the dtype of the model or of autocast is float16."""
        _check_dtype(self.dtype)
        device = self.device.type  # not of a weight of the embedding: PEFT would copy the matrix
        if device != "meta" and torch.is_autocast_enabled(device):
            _check_dtype(torch.get_autocast_dtype(device))

    def start(self, image: Any, processor) -> ImageSession:
        """Return an `ImageSession`: a conversation about one image (PIL, path or bytes), which is encoded once."""
        return ImageSession(self, processor, image)

    @property
    def stop_token_ids(self) -> list[int]:
        """Token ids that end an answer."""
        stops = self.generation_config.eos_token_id
        return stops if isinstance(stops, list) else [stops]

    def enable_input_require_grads(self) -> None:
        """Make the token embeddings require gradients, for activation checkpointing with frozen embeddings.

        The method of transformers does it for the image encoders too. The backward pass would then go through them.
        """

        def require_gradients(module, inputs, output):
            output.requires_grad_(True)

        self._require_grads_hooks = [self.get_input_embeddings().register_forward_hook(require_gradients)]
        self._require_grads_hook = self._require_grads_hooks[0]  # the name in older releases

    def image_shares(self, reshaped_input_sizes: torch.LongTensor | None, is_needed: bool) -> torch.FloatTensor | None:
        """Return the shares (I, 2) of the height and width of SAM's square that the images cover, None for None.

        Raises:
            ValueError: the bridge needs the sizes, which are missing.
        """
        if is_needed and reshaped_input_sizes is None and self.config.bridge != "mlp":
            raise ValueError("The bridge needs reshaped_input_sizes. Pass all outputs of the processor.")
        side = self.config.sam_config.vision_config.image_size
        return None if reshaped_input_sizes is None else reshaped_input_sizes.float() / side

    def encode_for_gemma(self, pixel_values: torch.FloatTensor) -> torch.FloatTensor:
        """Return Gemma's encoding of the images (I, 3, 896, 896): (I, 256, D). Without gradients if it is frozen."""
        _check_not_uint8(pixel_values)
        with _gradients_if_trained(self.model.vision_tower, self.model.multi_modal_projector):
            return self.model.get_image_features(pixel_values, return_dict=True).pooler_output

    def encode_for_sam(self, sam_pixel_values: torch.FloatTensor | None) -> torch.FloatTensor:
        """Return SAM's encoding of the images, (I, C, 64, 64); of one blank image if the batch has none.

        It has no gradients if the encoder is frozen.
        """
        if sam_pixel_values is None:
            sam_pixel_values = self._blank(self.config.sam_config.vision_config.image_size)
        _check_not_uint8(sam_pixel_values)
        weight = self.sam.vision_encoder.patch_embed.projection.weight
        sam_pixel_values = sam_pixel_values.to(loaded_device(self.sam, weight.device), weight.dtype)
        with _gradients_if_trained(self.sam.vision_encoder):
            # Processes that share a sharded model must call its modules equally often, also with unequal images
            is_alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
            if sam_pixel_values.device.type != "cpu" or torch.is_grad_enabled() or not is_alone:
                return self.sam.vision_encoder(sam_pixel_values).last_hidden_state
            # One by one, because the activations of a batch exceed the caches of a CPU and need new memory
            encoded = [self.sam.vision_encoder(image).last_hidden_state for image in sam_pixel_values.split(1)]
            return torch.cat(encoded)

    def save_pretrained(self, save_directory, is_main_process=True, state_dict=None, *args, **kwargs):
        """Save as in transformers, but with the parameter names of this module as keys.

        The Hub layout of Gemma 3 renames the language model. Trainer loads a state dict by its keys, so it would resume
        without the language model and only warn. Tied weights in `state_dict` are not saved if they are equal to the
        weight that they are tied to, because DeepSpeed and FSDP pass copies.
        """
        if state_dict is not None:
            state_dict = without_tied_copies(state_dict, self.get_expanded_tied_weights_keys(all_submodels=True))
        Path(save_directory, CHECKSUMS).unlink(missing_ok=True)  # checksums of the weights that are overwritten
        # Both, because transformers adds only the class that opened the model
        _restore_class_name(type(self))
        place = f"{__name__.rsplit('.', 1)[-1]}.{type(self).__name__}"
        self.config.auto_map = {"AutoModel": place, "AutoModelForImageTextToText": place}
        self.config.custom_pipelines = custom_pipelines()
        kwargs.setdefault("save_original_format", False)
        return super().save_pretrained(save_directory, is_main_process, state_dict, *args, **kwargs)

    def _encode_images(
        self, pixel_values: torch.FloatTensor | None, image_features: torch.FloatTensor | None, blank: bool
    ) -> tuple[torch.FloatTensor | None, torch.Tensor | float]:
        """Return Gemma's image features (I, 256, D) and a zero for the loss, from a blank image if there is none."""
        if image_features is not None:
            return image_features, 0.0
        if pixel_values is not None:
            return self.encode_for_gemma(pixel_values), 0.0
        if not blank:
            return None, 0.0
        return None, self.encode_for_gemma(self._blank(self.config.vision_config.image_size)).float().sum() * 0.0

    def _run_gemma(
        self,
        input_ids: torch.LongTensor | None,
        inputs_embeds: torch.FloatTensor | None,
        question_ids: torch.LongTensor | None,
        features: torch.FloatTensor | None,
        image_positions: torch.LongTensor | None,
        inputs: dict[str, Any],
    ) -> BaseModelOutputWithPast:
        """Run Gemma on tokens (B, L) and image features (I, 256, D), and return its output with states (B, L, D).

        `inputs` are further arguments of Gemma. Without `image_positions` (I · 256,), Gemma locates the image tokens,
        which synchronizes with the GPU.
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
            embeddings = self.get_input_embeddings()(input_ids)  # (B, L, D)
            inputs_embeds, input_ids = put_image_features(embeddings, features, image_positions), None
        elif features is not None and len(features):
            inputs["mm_encoder_outputs"] = {"image": BaseModelOutputWithPooling(pooler_output=features)}
        return self.model(input_ids=input_ids, inputs_embeds=inputs_embeds, **inputs)

    def _predict_tokens(
        self,
        states: torch.FloatTensor,
        labels: torch.LongTensor | None,
        learned_positions: torch.LongTensor | None,
        logits_to_keep: int | torch.Tensor,
        divisor: torch.Tensor | int | None,
    ) -> dict[str, torch.Tensor]:
        """Return logits (B, L, V) for the states (B, L, D) to keep; with labels, (N, V) and `language_loss`."""
        if labels is None:
            keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            return {"last_hidden_state": states[:, keep], "logits": self.lm_head(states[:, keep])}
        if learned_positions is None:
            learned_positions = find_learned(labels)  # (N,)
        logits = self.lm_head(states.flatten(0, 1)[learned_positions])  # V is 262,208, so only where needed
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
        """Return those of the states (B, L, D) that prompt SAM's decoder; none if there is no input for SAM."""
        image_positions, seg_positions = prepared.image_positions, prepared.seg_positions
        image_of_row, has_image = images_of_rows(input_ids, self.config.image_token_id)
        length, tokens = input_ids.shape[1], self.config.mm_tokens_per_image
        if has_sam_input and not (image_positions is None and torch.compiler.is_compiling()):
            shown = int(has_image.sum()) if image_positions is None else len(image_positions) // tokens
            if len(image_embeddings) != shown:
                raise ValueError(
                    f"SAM and Gemma must get the same images; SAM: {len(image_embeddings)}, Gemma: {shown}."
                )
        if seg_positions is None:
            seg_positions = find_positions(input_ids == self.config.seg_token_id)  # (S,)
            lacks_image = ~has_image[seg_positions // length]
            if not torch.compiler.is_compiling() and (count := int(lacks_image.sum())):
                raise ValueError(f"{count} [SEG] tokens are in conversations with no image; a mask needs an image.")
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
    ) -> DecodedMasks:
        """Return the masks of the `[SEG]` tokens, as `decode_seg_states` does."""
        return decode_seg_states(self.sam, self.seg_projector, seg, multimask_output, **prompts)

    def _learn(
        self,
        parts: dict[str, torch.Tensor | None],
        seg: SegStates,
        decoded: DecodedMasks,
        given: tuple | None,
        divisor: torch.Tensor | int | None,
        zero: torch.Tensor | float,
    ) -> dict[str, torch.Tensor]:
        """Add the losses of the masks, and `loss`: the weighted sum of all losses plus `zero`.

        given: arguments of `targets_of_batch`; None without target masks.
        """
        targets = None
        if given is not None:
            targets = targets_of_batch(seg.image_index, *given, self.config)
            parts = parts | losses_of_masks(decoded, targets, self.config, divisor)
        config = self.config
        mask_weights = (config.bce_loss_weight, config.dice_loss_weight, config.score_loss_weight)
        if config.prompted_loss_weight and self.training:
            loss = prompted_loss(self._decode_masks, seg, decoded.masks, targets, mask_weights, divisor)
            parts = parts | {"prompted_loss": loss}
        weights = (config.ce_loss_weight, *mask_weights, config.heat_map_loss_weight, config.prompted_loss_weight)
        loss = zero + decoded.touched
        for name, weight in zip(LOSS_PARTS, weights, strict=True):
            if parts.get(name) is not None:
                loss = loss + weight * parts[name]
        return parts | {"loss": loss}


def _gradients_if_trained(*modules: torch.nn.Module) -> torch.autograd.grad_mode.set_grad_enabled:
    """Return a context without gradients, unless gradients are enabled and a weight of the modules is trained."""
    is_trained = any(parameter.requires_grad for module in modules for parameter in module.parameters())
    return torch.set_grad_enabled(torch.is_grad_enabled() and is_trained)


def _restore_class_name(made: type) -> None:
    """Rename the class that FSDP2 creates back to the model's name, because a checkpoint stores the name."""
    written = GemmaLisaForConditionalGeneration
    if made.__name__ == f"FSDP{written.__name__}":
        made.__name__, made.__qualname__, made.__module__ = written.__name__, written.__qualname__, written.__module__


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype == torch.float16:
        raise ValueError("float16 is not supported: Gemma 3's activations exceed its range. Use dtype=torch.bfloat16.")


def _check_not_uint8(images: torch.Tensor) -> None:
    if images.dtype == torch.uint8:
        raise ValueError("The images are uint8. Call `processor.normalize_images(batch)` before the model.")


GemmaLisaForConditionalGeneration.register_for_auto_class("AutoModel")
