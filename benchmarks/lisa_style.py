"""LISA's way of doing the same work with the weights of a Gemma-LISA, to compare speed and memory.

It follows model/LISA.py and LLaVA 1.1, in which LISA is implemented:

- Every question is a row with its own copy of the image. CLIP (here SigLIP) encodes every copy; SAM encodes an image
  once, one after another. Both run without gradients.
- Logits are computed for all positions, in fp32, and the loss is computed over all of them.
- The embedding and the head are trained as a whole, with LoRA on q and v, the projector and SAM's mask decoder.
- A Python loop calls SAM's mask decoder and the mask losses for one image at a time.
- Generation has no KV cache. Every token needs a forward pass on the whole prompt, image and answer, with all logits.

SAM's layers are those of transformers, without the faster ones of this project.

LISA's LLaMA has separate weights for embedding and head. They are one matrix here, as in Gemma 3.
"""

import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model

from gemma_lisa.losses_gemma_lisa import IGNORE_INDEX, bce_loss, dice_loss, sample_mask_logits
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.sam_layers_gemma_lisa import ChunkedVisionAttention, FastMaskDecoder, FoldedAttention

LORA_TARGETS = r"model\.language_model\.layers\.\d+\.self_attn\.(q|v)_proj"
TRAINED = ("lora_", "embed_tokens", "lm_head", "seg_projector", "sam.mask_decoder")


def use_stock_layers(model: GemmaLisaForConditionalGeneration) -> None:
    """Give SAM the layers of transformers, in place. `use_fast_layers` has replaced them."""
    for module in model.sam.modules():
        if type(module) in (ChunkedVisionAttention, FoldedAttention, FastMaskDecoder):
            module.__class__ = type(module).__base__


def add_lisa_lora(model: GemmaLisaForConditionalGeneration, rank: int) -> None:
    """Add LoRA layers where LISA has them, in place. They change no result until they are trained."""
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LORA_TARGETS), model)


def train_as_lisa(model: GemmaLisaForConditionalGeneration, rank: int) -> GemmaLisaForConditionalGeneration:
    """Return the model with LoRA layers and stock layers, in place. What LISA trains is trained, in fp32."""
    use_stock_layers(model)
    add_lisa_lora(model, rank)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in TRAINED))
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def lisa_losses(
    model: GemmaLisaForConditionalGeneration, batch: dict, image_of_row: torch.LongTensor
) -> dict[str, torch.Tensor]:
    """Return language_loss, mask_bce_loss, mask_dice_loss and loss, each (), of one row per question.

    Args:
        model: the model.
        batch: output of the collator for B samples with one question each.
        image_of_row: (B,) index of the image of each row. Rows of an image follow each other.
    """
    states = _read(model, batch)  # (B, L, D)
    logits = model.lm_head(states).float()  # (B, L, V)
    language_loss = F.cross_entropy(
        logits[:, :-1].contiguous().flatten(0, 1),
        batch["labels"][:, 1:].contiguous().flatten(),
        ignore_index=IGNORE_INDEX,
    )
    is_seg = _marks_states(model, batch["input_ids"])  # (B, L)
    first_rows = _first_rows(image_of_row)  # (I,)
    image_embeddings = encode_one_by_one(model, batch["sam_pixel_values"][first_rows])  # (I, C, 64, 64)
    prompts = model.seg_projector(states.to(model.seg_projector.dtype))[is_seg]  # (S, C), projected as LISA: all states
    image_of_mask = image_of_row[is_seg.nonzero()[:, 0]]  # (S,)
    prepared, side = batch["prepared"], model.config.sam_config.vision_config.image_size
    mask_bce_loss = mask_dice_loss = 0.0
    for image, row in enumerate(first_rows.tolist()):
        mine = image_of_mask == image
        count = int(mine.sum())
        masks, _ = decode_masks_of_image(model, prompts[mine], image_embeddings[image])  # (K, 256, 256)
        height, width = prepared.mask_sizes[mine][0].tolist()
        shown = batch["reshaped_input_sizes"][row].expand(count, -1)
        sizes = prepared.mask_sizes[mine]
        mask_logits = sample_mask_logits(masks.float(), side, shown, sizes, canvas=(height, width))  # (K, H, W)
        targets = prepared.mask_targets[mine, :height, :width]
        mask_bce_loss = mask_bce_loss + bce_loss(mask_logits, targets).sum()
        mask_dice_loss = mask_dice_loss + dice_loss(mask_logits, targets).sum()
    losses = {
        "language_loss": language_loss,
        "mask_bce_loss": mask_bce_loss / len(prompts),
        "mask_dice_loss": mask_dice_loss / len(prompts),
    }
    config = model.config
    weights = (config.ce_loss_weight, config.bce_loss_weight, config.dice_loss_weight)
    total = sum(weight * loss for weight, loss in zip(weights, losses.values(), strict=True))
    return {**losses, "loss": total}


@torch.no_grad()
def lisa_segment(
    model: GemmaLisaForConditionalGeneration, inputs: dict[str, torch.Tensor], num_tokens: int
) -> tuple[torch.LongTensor, torch.FloatTensor]:
    """Return prompt and answer (1, L + T), and mask logits (K, 256, 256), of one conversation with one image.

    Args:
        model: the model.
        inputs: output of the processor for one conversation.
        num_tokens: length T of the answer. Tokens that end an answer do not end it.
    """
    inputs = dict(inputs)
    length = inputs["input_ids"].shape[1]
    for _ in range(num_tokens):
        states = _read(model, inputs)  # (1, L + t, D)
        logits = model.lm_head(states).float()  # (1, L + t, V)
        token = logits[:, -1:].argmax(-1)  # (1, 1)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], token], dim=1)
        for name, value in (("attention_mask", 1), ("token_type_ids", 0)):
            inputs[name] = F.pad(inputs[name], (0, 1), value=value)
    is_seg = _marks_states(model, inputs["input_ids"])[0]  # (L + T,)
    is_seg[: length - 1] = False
    if is_seg[-1]:  # the last pass did not read the last token
        states = _read(model, inputs)
    is_seg = is_seg[: states.shape[1]]
    image_embeddings = encode_one_by_one(model, inputs["sam_pixel_values"])
    prompts = model.seg_projector(states.to(model.seg_projector.dtype))[0, is_seg]  # (K, C)
    return inputs["input_ids"], decode_masks_of_image(model, prompts, image_embeddings[0])[0]


@torch.no_grad()
def encode_one_by_one(
    model: GemmaLisaForConditionalGeneration, sam_pixel_values: torch.FloatTensor
) -> torch.FloatTensor:
    """Return SAM's encoding of the images, (I, C, 64, 64), computed one after another."""
    dtype = model.sam.vision_encoder.patch_embed.projection.weight.dtype
    return torch.cat([model.sam.vision_encoder(image[None].to(dtype)).last_hidden_state for image in sam_pixel_values])


def decode_masks_of_image(
    model: GemmaLisaForConditionalGeneration, prompts: torch.FloatTensor, image_embedding: torch.FloatTensor
) -> tuple[torch.FloatTensor, torch.FloatTensor]:
    """Return mask logits (K, 256, 256) and scores (K,) of prompts (K, C) for an image embedding (C, 64, 64)."""
    sam = model.sam
    dtype = sam.mask_decoder.iou_token.weight.dtype
    _, dense = sam.prompt_encoder(None, None, None, None)  # (1, C, 64, 64)
    masks, scores = sam.mask_decoder(
        image_embeddings=image_embedding[None].to(dtype),
        image_positional_embeddings=sam.get_image_wide_positional_embeddings().to(dtype),
        sparse_prompt_embeddings=prompts[None, :, None].to(dtype),  # (1, K, 1, C)
        dense_prompt_embeddings=dense.to(dtype),
        multimask_output=False,
    )
    return masks[0, :, 0], scores[0, :, 0]


def _read(model: GemmaLisaForConditionalGeneration, inputs: dict) -> torch.FloatTensor:
    """Return Gemma's states (B, L, D) of rows with one image each."""
    with torch.no_grad():
        features = model.model.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output
    embeddings = model.get_input_embeddings()(inputs["input_ids"])  # (B, L, D)
    is_image = inputs["input_ids"] == model.config.image_token_id
    embeddings = embeddings.masked_scatter(is_image[..., None], features.to(embeddings.dtype))
    return model.model(
        inputs_embeds=embeddings,
        attention_mask=inputs["attention_mask"],
        token_type_ids=inputs["token_type_ids"],
        use_cache=False,
    ).last_hidden_state


def _marks_states(model: GemmaLisaForConditionalGeneration, input_ids: torch.LongTensor) -> torch.BoolTensor:
    """Return where the state that prompts SAM is, (B, L)."""
    is_seg = input_ids == model.config.seg_token_id
    return F.pad(is_seg[:, 1:], (0, 1)) if model.config.seg_state == "previous" else is_seg


def _first_rows(image_of_row: torch.LongTensor) -> torch.LongTensor:
    """Return the first row of each image, (I,)."""
    starts = torch.ones_like(image_of_row, dtype=torch.bool)
    starts[1:] = image_of_row[1:] != image_of_row[:-1]
    return starts.nonzero()[:, 0]
