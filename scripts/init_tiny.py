"""Create a small Gemma-LISA checkpoint with random weights, for `make demo` and the tests.

    python scripts/init_tiny.py --output outputs/tiny --seed 0

It has the architecture of Gemma 3 and SAM with 0.8 million parameters, and learns simple drawings on one CPU core. The
tokenizer is a byte-level BPE with the special tokens of Gemma 3, trained on the texts of the data set `shapes`.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed  # transformers' own imports bitsandbytes
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    Gemma3TextConfig,
    GenerationConfig,
    PreTrainedTokenizerFast,
    SamConfig,
    SiglipVisionConfig,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from gemma_lisa.checkpoints.checksums import write_checksums
from gemma_lisa.configuration_gemma_lisa import BRIDGES, GemmaLisaConfig
from gemma_lisa.datasets_builder.rows import SEG_SLOT
from gemma_lisa.datasets_builder.synthetic.shapes import LEVELS, row_of_scene
from gemma_lisa.datasets_builder.templates import ask
from gemma_lisa.interfaces.command_line import ArgumentParser, run
from gemma_lisa.interfaces.output_checks import check_new_folder
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor
from gemma_lisa.safety.whole_files import check_writable
from gemma_lisa.training.atomic_saves import folder_in_place

SPECIAL_TOKENS = {
    "pad_token": "<pad>",
    "eos_token": "<eos>",
    "bos_token": "<bos>",
    "unk_token": "<unk>",
}
TURN_TOKENS = ["<start_of_turn>", "<end_of_turn>"]
IMAGE_TOKENS = {
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
}
SEG_TOKEN = "[SEG]"


def build_tokenizer(vocab_size: int = 640) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer, in which each word of the drawings is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    reserved = [*SPECIAL_TOKENS.values(), *TURN_TOKENS, *IMAGE_TOKENS.values(), SEG_TOKEN]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=reserved,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sentences(), trainer)
    tokenizer.add_tokens([AddedToken("\n\n", normalized=False)])  # one token, as in Gemma's vocabulary
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **SPECIAL_TOKENS,
        extra_special_tokens=IMAGE_TOKENS,
        additional_special_tokens=[*TURN_TOKENS, SEG_TOKEN],
        padding_side="left",
    )


def _sentences(num_scenes: int = 200) -> Iterator[str]:
    """Yield questions and answers about drawn scenes of both levels, to train the tokenizer."""
    for index in range(num_scenes):
        generator = np.random.default_rng(index)
        for level in LEVELS["both"]:
            scene = level.draw_scene(generator, 128)
            row = row_of_scene(scene, generator, training=True, source="", level=level)
            for conversation in ask(row, generator, max_questions=len(row["targets"])):
                for question, answer in conversation.turns:
                    yield f"user\n{question}"
                    yield f"model\n{answer.replace(SEG_SLOT, '')}"


PIXELS_PER_TOKEN = 16  # in each direction, for one image token


def build_processor(image_size: int) -> GemmaLisaProcessor:
    """Return the processor of a small model, with images of `image_size` × `image_size` pixels for both encoders."""
    num_tokens = (image_size // PIXELS_PER_TOKEN) ** 2
    square = {"height": image_size, "width": image_size}
    mask_side = image_size // 2
    return GemmaLisaProcessor(
        image_processor=Gemma3ImageProcessorPil(size=square),
        tokenizer=build_tokenizer(),
        sam_image_processor=SamImageProcessorPil(
            size={"longest_edge": image_size},
            pad_size=square,
            mask_size={"longest_edge": mask_side},
            mask_pad_size={"height": mask_side, "width": mask_side},
        ),
        image_seq_length=num_tokens,
    )


def build_config(processor: GemmaLisaProcessor, image_size: int, **overrides) -> GemmaLisaConfig:
    """Return the configuration: hidden size × layers are Gemma 96 × 4, SigLIP 64 × 2, SAM 64 × 2."""
    tokenizer = processor.tokenizer
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in IMAGE_TOKENS.items()}
    text_config = Gemma3TextConfig(
        vocab_size=math.ceil(len(tokenizer) / 16) * 16,
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        query_pre_attn_scalar=24,
        intermediate_size=192,
        sliding_window=512,
        max_position_embeddings=2048,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    vision_config = SiglipVisionConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        patch_size=8,
        image_size=image_size,
        vision_use_head=False,
    )
    width = 64
    sam_config = SamConfig(
        vision_config=dict(
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            mlp_ratio=2.0,
            mlp_dim=128,
            patch_size=8,
            image_size=image_size,
            window_size=0,
            global_attn_indexes=[0, 1],
            output_channels=width,
            num_pos_feats=width // 2,
            initializer_range=0.02,
            scale=1,
        ),
        prompt_encoder_config=dict(hidden_size=width, image_size=image_size, patch_size=8, mask_input_channels=8),
        mask_decoder_config=dict(hidden_size=width, mlp_dim=256, num_attention_heads=4, iou_head_hidden_dim=64),
    )
    return GemmaLisaConfig(
        text_config=text_config.to_dict(),
        vision_config=vision_config.to_dict(),
        sam_config=sam_config.to_dict(),
        mm_tokens_per_image=processor.image_seq_length,
        image_token_index=ids["image_token"],
        boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"],
        seg_token_id=processor.seg_token_id,
        base_models=[],
        **overrides,
    )


@torch.no_grad()
def initialize(model: GemmaLisaForConditionalGeneration) -> None:
    """Initialize the weights for training from scratch, for which the libraries' initialization is not suitable."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            fan_in = module.weight[0].numel() if not isinstance(module, nn.ConvTranspose2d) else module.in_channels
            nn.init.normal_(module.weight, std=fan_in**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    embedding = model.get_input_embeddings().weight  # the head is tied to it
    nn.init.normal_(embedding, std=embedding.shape[1] ** -0.5)
    projection = model.model.multi_modal_projector.mm_input_projection_weight
    nn.init.normal_(projection, std=projection.shape[0] ** -0.5)
    nn.init.normal_(model.model.vision_tower.embeddings.position_embedding.weight, std=0.2)
    nn.init.normal_(model.sam.vision_encoder.pos_embed, std=0.2)
    for tokens in (model.sam.mask_decoder.iou_token, model.sam.mask_decoder.mask_tokens):
        nn.init.normal_(tokens.weight, std=1.0)
    nn.init.normal_(model.sam.prompt_encoder.no_mask_embed.weight, std=1.0)


def build_tiny(
    image_size: int = 64, seed: int = 0, **overrides
) -> tuple[GemmaLisaForConditionalGeneration, GemmaLisaProcessor]:
    """Return a small random model and its processor for square images of `image_size` pixels.

    Args:
        overrides: fields of the configuration.
    """
    set_seed(seed)
    processor = build_processor(image_size)
    model = GemmaLisaForConditionalGeneration(build_config(processor, image_size, **overrides))
    initialize(model)
    stops = [processor.tokenizer.eos_token_id, processor.tokenizer.convert_tokens_to_ids("<end_of_turn>")]
    model.generation_config = GenerationConfig(
        eos_token_id=stops, pad_token_id=processor.tokenizer.pad_token_id, bos_token_id=processor.tokenizer.bos_token_id
    )
    return model, processor


def main(arguments: list[str]) -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write, which must be new or empty")
    parser.add_argument(
        "--image_size", type=int, default=64, help="side of the square image in pixels; a multiple of 16 (default: 64)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random weights (default: 0)")
    parser.add_argument(
        "--seg_state",
        choices=("token", "previous"),
        default="token",
        help="hidden state that prompts SAM: of [SEG] (token) or of the token before it (previous) (default: token)",
    )
    bridge_help = "what the state becomes: a sparse prompt (mlp), or also a map of the image (heat_map) (default: mlp)"
    parser.add_argument("--bridge", choices=BRIDGES, default="mlp", help=bridge_help)
    parser.add_argument("--overwrite", action="store_true", help="replace the checkpoint in a folder that is not empty")
    args = parser.parse_args(arguments)
    if not args.overwrite:
        check_new_folder(args.output)
    check_writable(args.output, "--output", is_folder=True)
    model, processor = build_tiny(args.image_size, args.seed, seg_state=args.seg_state, bridge=args.bridge)
    with folder_in_place(args.output) as temporary:
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        write_checksums(temporary)
    print(f"{args.output}: {model.num_parameters():,} random parameters (seed {args.seed})")


if __name__ == "__main__":
    run(main)
