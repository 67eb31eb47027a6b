"""Gemma-LISA: Gemma 3 looks and talks; the state at every `[SEG]` it writes prompts SAM's mask decoder.

Letters: B conversations, L tokens, I images, S [SEG] tokens, K masks of one image, D Gemma's hidden size, C SAM's
prompt size (256), V vocabulary, N labelled tokens. Sizes in pixels are Gemma 3's and SAM's; the configuration decides.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Gemma3ForConditionalGeneration, SamModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast

from .compatibility_gemma_lisa import CACHE_NAME, accept_new_fields, repeated_outputs
from .configuration_gemma_lisa import CHECKSUMS, GemmaLisaConfig
from .generation_gemma_lisa import SegmentationMixin
from .losses_gemma_lisa import IGNORE_INDEX, token_loss
from .mask_decoding_gemma_lisa import decode_masks, loaded_device
from .packing_gemma_lisa import isolate_questions
from .pipeline_gemma_lisa import custom_pipelines  # which also has transformers copy its file to every checkpoint
from .session_gemma_lisa import ImageSession
from .targets_gemma_lisa import HANDS, MaskTargets, prompts_of_hand

# What the words say beside a simulated hand: see `_prompted_loss`.
WORDS = ("right", "another's", "none")


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
            and the error of the scores, in their weights, of masks by simulated hands, the mean of three kinds.
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


class SegProjector(nn.Sequential):
    """Gemma's state at a `[SEG]`, (S, D), to a prompt of SAM's decoder, (S, C): Linear–ReLU–Linear, as in LISA."""

    def __init__(self, hidden_size: int, prompt_size: int):
        super().__init__(nn.Linear(hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, prompt_size))

    @property
    def dtype(self) -> torch.dtype:
        """The type it computes in: its bias's, for a quantised weight is held in bytes."""
        return self[0].bias.dtype


class GemmaLisaForConditionalGeneration(SegmentationMixin, Gemma3ForConditionalGeneration):
    """Gemma 3 with a SAM beside it and `seg_projector` between them. See `forward` and `segment`."""

    config_class = GemmaLisaConfig
    config: GemmaLisaConfig
    # SAM's positional code of the image: sines of large arguments, which bf16 rounds too coarsely; SAM has them in fp32
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
        cache: Cache | None = None,
        **kwargs,
    ) -> GemmaLisaOutput:
        """One pass of Gemma over the batch and one call of SAM's decoder over all its `[SEG]` tokens.

        Args:
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
            cache: `past_key_values`, as transformers calls it since 5.24. Further keywords are passed to Gemma.

        Returns:
            `GemmaLisaOutput`.

        Raises:
            ValueError: inputs that do not belong together, with their counts.
        """
        self.refuse_fp16()
        learns = labels is not None or mask_labels is not None
        if input_ids is None and (learns or sam_pixel_values is not None or image_embeddings is not None):
            raise ValueError("inputs_embeds tell no [SEG] and no image from other tokens; pass input_ids.")
        if pixel_values is not None and token_type_ids is None and question_ids is None:
            raise ValueError("pixel_values came without token_type_ids: pass all that the processor returned.")

        if past_key_values is not None and cache is not None:
            raise ValueError("past_key_values and cache are two names of one argument; pass one of them.")

        if question_ids is not None:
            attention_mask, position_ids = isolate_questions(
                question_ids,
                is_image=input_ids == self.config.image_token_id,
                text_config=self.config.text_config,
                dtype=self.dtype,
            )

        # Look: Gemma's image features first, so that every rank meets the modules in one order whatever its batch holds
        image_features, unused = self._look(pixel_values, blank=learns)
        if image_features is not None:
            kwargs["mm_encoder_outputs"] = {"image": image_features}
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            token_type_ids=None if question_ids is not None else token_type_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **{CACHE_NAME: past_key_values if cache is None else cache},
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state  # (B, L, D)

        # Talk: the head only where something is learned (V is 262,208)
        language_loss = last_hidden_state = None
        if labels is None:
            keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            last_hidden_state = hidden_states[:, keep]  # (B, L, D)
            logits = self.lm_head(last_hidden_state)  # (B, L, V)
        else:
            learned = labels[:, 1:] != IGNORE_INDEX  # (B, L-1)
            logits = self.lm_head(hidden_states[:, :-1][learned])  # (N, V)
            language_loss = token_loss(logits, labels[:, 1:][learned], num_items_in_batch)

        # Point: SAM's decoder once over all [SEG]
        pred_masks = iou_scores = seg_image_index = targets = None
        mask_bce_loss = mask_dice_loss = score_loss = prompted_loss = None
        has_sam_input = sam_pixel_values is not None or image_embeddings is not None
        if has_sam_input or learns:
            if image_embeddings is None:
                image_embeddings = self.encode_for_sam(sam_pixel_values)  # (I, C, 64, 64)
            positions, seg_image_index = self._find_seg_tokens(input_ids, len(image_embeddings), has_sam_input)
            # (S, D), (I, C, 64, 64), (S,), and for a batch without any [SEG] a state that stands for one
            pointing = (hidden_states[positions], image_embeddings, seg_image_index, hidden_states[:1, 0])
            pred_masks, iou_scores, touched = self._decode_masks(*pointing)
            unused = unused + touched

        if mask_labels is not None:
            targets = self._mask_targets(seg_image_index, mask_labels, reshaped_input_sizes)
            mask_bce_loss, mask_dice_loss, score_loss = self._mask_losses(
                pred_masks, iou_scores, targets, num_masks_in_batch
            )
        if self.config.prompted_loss_weight and self.training and learns:
            prompted_loss = self._prompted_loss(pointing, pred_masks, targets, num_masks_in_batch)

        loss = None
        if learns:
            loss = unused
            for weight, part in (
                (self.config.ce_loss_weight, language_loss),
                (self.config.bce_loss_weight, mask_bce_loss),
                (self.config.dice_loss_weight, mask_dice_loss),
                (self.config.score_loss_weight, score_loss),
                (self.config.prompted_loss_weight, prompted_loss),
            ):
                if part is not None:
                    loss = loss + weight * part

        return GemmaLisaOutput(
            loss=loss,
            language_loss=language_loss,
            mask_bce_loss=mask_bce_loss,
            mask_dice_loss=mask_dice_loss,
            score_loss=score_loss,
            prompted_loss=prompted_loss,
            logits=logits,
            pred_masks=pred_masks,
            iou_scores=iou_scores,
            seg_image_index=seg_image_index,
            image_embeddings=image_embeddings if has_sam_input else None,
            last_hidden_state=last_hidden_state,
            **repeated_outputs(outputs),
        )

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

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As in transformers, with the module's own names as keys.

        Gemma 3's Hub layout renames the language model, and Trainer, which loads a state dict by its keys, would then
        resume without it and only warn.

        Of a given `state_dict`, weights that are tied to another are not saved: engines hand over copies.
        """
        if kwargs.get("state_dict") is not None:
            tied = self.all_tied_weights_keys
            kwargs["state_dict"] = {name: kept for name, kept in kwargs["state_dict"].items() if name not in tied}
        Path(save_directory, CHECKSUMS).unlink(missing_ok=True)  # they are of the weights that lay there
        # Both: transformers adds only the one of the class that opened the model
        _name_as_written(type(self))
        place = f"{__name__.rsplit('.', 1)[-1]}.{type(self).__name__}"
        self.config.auto_map = {"AutoModel": place, "AutoModelForImageTextToText": place}
        self.config.custom_pipelines = custom_pipelines()
        kwargs.setdefault("save_original_format", False)
        return super().save_pretrained(save_directory, *args, **kwargs)

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

    def _blank(self, side: int) -> torch.FloatTensor:
        return torch.zeros(1, 3, side, side, device=loaded_device(self, self.device), dtype=self.dtype)

    def _image_of_row(self, input_ids: torch.LongTensor) -> tuple[torch.LongTensor, torch.BoolTensor]:
        """For each conversation, (B,): the index of its image, and whether it shows one at all."""
        has_image = (input_ids == self.config.image_token_id).any(dim=1)
        return has_image.long().cumsum(0) - 1, has_image

    def _find_seg_tokens(
        self, input_ids: torch.LongTensor, num_images: int, has_sam_input: bool
    ) -> tuple[tuple[torch.LongTensor, torch.LongTensor], torch.LongTensor]:
        """(row, position) of each state that prompts SAM, and the image that each belongs to, (S,)."""
        image_of_row, has_image = self._image_of_row(input_ids)
        rows, columns = (input_ids == self.config.seg_token_id).nonzero(as_tuple=True)  # (S,), (S,)
        if not torch.compiler.is_compiling():  # a graph cannot branch on what tensors hold
            if has_sam_input and num_images != (shown := int(has_image.sum())):
                raise ValueError(f"{num_images} images for SAM but {shown} conversations that show an image to Gemma.")
            if astray := int((~has_image[rows]).sum()):
                raise ValueError(f"{astray} [SEG] tokens stand in conversations that show no image; a mask needs one.")
        if not has_sam_input:
            rows, columns = rows[:0], columns[:0]
        if self.config.seg_state == "previous":
            columns = columns - 1
        return (rows, columns), image_of_row[rows]

    def _decode_masks(
        self,
        seg_hidden_states: torch.FloatTensor,
        image_embeddings: torch.FloatTensor,
        seg_image_index: torch.LongTensor,
        idle_state: torch.FloatTensor,
        multimask_output: bool = False,
        **prompts: torch.FloatTensor,
    ) -> tuple[torch.FloatTensor, torch.FloatTensor, torch.Tensor]:
        """SAM's decoder, once, on the states (S, D): mask logits (S, 256, 256), scores (S,), and zero.

        The decoder runs on `idle_state` (1, D) where there is no `[SEG]`, and the last value, a zero that hangs on all
        its outputs, goes into the loss: so no parameter is ever without a gradient, and every rank goes back through
        the same modules, those that are frozen too. `prompts`: (S, ...) each, for `decode_masks`.
        """
        count = len(seg_hidden_states)
        if torch.compiler.is_compiling() or count == 0:  # a graph cannot branch on the count: it always adds the state
            seg_hidden_states = torch.cat([seg_hidden_states, idle_state])
            seg_image_index = torch.cat([seg_image_index[:count], seg_image_index.new_zeros(1)])
            prompts = {
                name: torch.cat([prompt, prompt.new_zeros(1, *prompt.shape[1:])]) for name, prompt in prompts.items()
            }
        if len(image_embeddings) == 0:
            image_embeddings = image_embeddings.new_zeros(1, *image_embeddings.shape[1:])
        seg_image_index = seg_image_index.to(image_embeddings.device)
        masks, scores = decode_masks(
            self.sam,
            self.project_seg(seg_hidden_states),  # (S, C)
            image_embeddings[seg_image_index],  # (S, C, 64, 64)
            multimask_output=multimask_output,
            **prompts,
        )
        touched = (masks.float().sum() + scores.float().sum()) * 0.0
        return masks[:count], scores[:count], touched

    def _mask_targets(
        self,
        seg_image_index: torch.LongTensor,
        mask_labels: list[torch.Tensor],
        reshaped_input_sizes: torch.LongTensor | None,
    ) -> MaskTargets | None:
        """The right masks, one for each `[SEG]`; None where there is none of either."""
        counts = [len(masks) for masks in mask_labels]
        num_images = len(counts) if reshaped_input_sizes is None else len(reshaped_input_sizes)
        if not torch.compiler.is_compiling():
            found = torch.bincount(seg_image_index, minlength=num_images).tolist()
            if found != counts:
                raise ValueError(
                    f"[SEG] tokens per image {found}, masks per image {counts}; every [SEG] needs one mask."
                )
        if sum(counts) == 0:
            return None
        if reshaped_input_sizes is None:
            raise ValueError("mask_labels came without reshaped_input_sizes: pass all that the processor returned.")
        side = self.config.sam_config.vision_config.image_size
        return MaskTargets.of(mask_labels, reshaped_input_sizes[seg_image_index], side, self.config.mask_loss_size)

    def _mask_losses(
        self,
        pred_masks: torch.FloatTensor,
        iou_scores: torch.FloatTensor,
        targets: MaskTargets | None,
        divisor: torch.Tensor | int | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """BCE and Dice of all masks of the batch, at the masks' own size, and the error of their scores; each ()."""
        if targets is None:
            nothing = pred_masks.float().sum()
            return nothing, nothing, nothing
        logits = targets.read(pred_masks)
        return (*targets.losses(logits, divisor), targets.score_loss(logits.detach(), iou_scores, divisor))

    def _prompted_loss(
        self,
        pointing: tuple[torch.Tensor, ...],
        pred_masks: torch.FloatTensor,
        targets: MaskTargets | None,
        divisor: torch.Tensor | int | None,
    ) -> torch.Tensor:
        """How good the masks are when a hand points at the thing, boxes it, or corrects a mask; the mean of the three.

        `pointing` is what `_decode_masks` is given first. What the words say is drawn for each of the three: the right
        thing, another one of the batch, or nothing at all. Beside right words a hand is seldom needed, and not learned
        to be believed; what it means is learned where it is alone.
        """
        states, *others = pointing
        loss = 0.0
        for hand in HANDS:
            words = WORDS[int(torch.randint(len(WORDS), ()))]
            told, shown = states, pred_masks.detach()  # (S, D), (S, 256, 256)
            if words == "another's":
                told, shown = states.roll(1, dims=0), shown.roll(1, dims=0)
            elif words == "none":
                told = states * 0.0  # and not zeros, which the projector would not be gone back through for
            if targets is None:
                told, shown = told[:0], shown[:0]
            prompts = prompts_of_hand(hand, targets, shown, misled=words == "another's")
            prompted, scores, touched = self._decode_masks(told, *others, **prompts)  # (S, 256, 256), (S,), ()
            loss = loss + touched
            if targets is not None:
                bce, dice, score = self._mask_losses(prompted, scores, targets, divisor)
                loss = loss + self.config.bce_loss_weight * bce + self.config.dice_loss_weight * dice
                loss = loss + self.config.score_loss_weight * score
        return loss / len(HANDS)


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
