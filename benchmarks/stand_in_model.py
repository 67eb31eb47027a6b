"""Build models with random weights, batches and answers of chosen sizes, for the benchmarks of speed and memory.

Speed and memory do not depend on the weights. The sizes are "tiny" (seconds on a CPU, for tests), "middle" (minutes on
a CPU: the language model is 512 wide with 8 layers, SAM gets images of 1024 pixels) and "real" (Gemma 3 and SAM ViT-H,
on a GPU).
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image
from transformers import Gemma3TextConfig, SamConfig, SiglipVisionConfig
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.configuration_gemma_lisa import GemmaLisaConfig
from gemma_lisa.datasets_builder.templates import Conversation
from gemma_lisa.interfaces.command_line import positive
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.scripts.init_tiny import build_config, build_processor, initialize
from gemma_lisa.training.model_sizes import build_real_config

TINY_SIDE = 64  # pixels of the square image of both encoders
# Vocabulary of each size; None: that of the project tokenizer
VOCABULARIES = {"tiny": None, "middle": 262_208, "real": 262_208}
# hidden size, layers, attention heads, layers with global attention
SAM_SIZES = {"small": (192, 4, 3, [1, 3]), "vit_b": (768, 12, 12, [2, 5, 8, 11])}
LORA_RANK = 8
WORD = " circle"  # one token, of which long questions are made
ANSWER = "It is {seg}."
SEG_STEP = 3  # number of tokens before [SEG] in a forced answer


@dataclass(frozen=True)
class Work:
    """What is measured.

    Args:
        size: "tiny", "middle" or "real".
        images, questions: number of images, and of questions with one mask each per image.
        words: number of tokens of a question's text.
        mask_size: (height, width) of image and masks in pixels.
        vocabulary: size of the vocabulary; None selects that of VOCABULARIES.
        sam: key of SAM_SIZES, for size "middle".
        gemma: key of GEMMA_SIZES, for size "real".
        device: torch device.
    """

    size: str = "tiny"
    images: int = 2
    questions: int = 3
    words: int = 16
    mask_size: tuple[int, int] = (480, 640)
    vocabulary: int | None = None
    sam: str = "small"
    gemma: str = "4b"
    device: str = "cpu"

    @property
    def dtype(self) -> torch.dtype:
        """bf16 at real size, else fp32."""
        return torch.bfloat16 if self.size == "real" else torch.float32

    def to_json(self) -> dict:
        return asdict(self)


def add_work_options(parser: argparse.ArgumentParser, has_batch: bool = True) -> None:
    """Add the options from which `read_work` makes a Work. has_batch: also those of numbers of images and questions."""
    group = parser.add_argument_group("work")
    group.add_argument("--size", choices=tuple(VOCABULARIES), default="tiny", help="model size (default: tiny)")
    group.add_argument("--vocabulary", type=positive, help="size of the vocabulary (default: 262,208; of tiny: 656)")
    group.add_argument("--sam", choices=tuple(SAM_SIZES), help="SAM of size middle (default: small, 192 wide × 4)")
    group.add_argument("--gemma", choices=("4b", "12b"), help="Gemma of size real (default: 4b)")
    if has_batch:
        group.add_argument("--images", type=positive, help="number of images (default: 2)")
        group.add_argument("--questions", type=positive, help="number of questions per image (default: 3)")
    group.add_argument("--words", type=positive, help="number of tokens of a question's text (default: 16)")
    group.add_argument("--device", help="torch device (default: cuda for size real, else cpu)")


def read_work(args: argparse.Namespace) -> Work:
    """Return the Work of parsed options.

    Raises:
        UsageError: an option that has no effect with this size, a vocabulary that is too small, or no GPU.
    """
    for name, size in (("sam", "middle"), ("gemma", "real")):
        if getattr(args, name) is not None and args.size != size:
            raise UsageError(f"--{name} needs --size {size}, got --size {args.size}. Remove --{name}.")
    if args.vocabulary is not None and args.vocabulary < (smallest := len(_small_processor().tokenizer)):
        raise UsageError(f"--vocabulary must be at least {smallest}, got {args.vocabulary}.")
    device = args.device or ("cuda" if args.size == "real" else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError("no GPU was found. To test the code without one, use --size tiny --device cpu.")
    names = ("vocabulary", "sam", "gemma", "images", "questions", "words")
    given = {name: value for name, value in vars(args).items() if name in names and value is not None}
    return Work(size=args.size, device=device, **given)


# ---------------------------------------------------------------------------------------------------------------------
# Model
# ---------------------------------------------------------------------------------------------------------------------
@cache
def _small_processor() -> GemmaLisaProcessor:
    """Return the processor of size tiny. Its tokenizer, which all sizes have, takes seconds to train."""
    return build_processor(TINY_SIDE)


def build_sizes(work: Work) -> tuple[GemmaLisaConfig, GemmaLisaProcessor]:
    """Return the configuration of the model, and a processor with the project tokenizer."""
    small_processor = _small_processor()
    small = build_config(small_processor, TINY_SIDE)
    if work.size == "tiny":
        config, processor = small, small_processor
    else:
        side = 896 if work.size == "real" else 224
        processor = GemmaLisaProcessor(
            image_processor=Gemma3ImageProcessorPil(size={"height": side, "width": side}),
            tokenizer=small_processor.tokenizer,
            sam_image_processor=SamImageProcessorPil(),
        )
        names = ("image_token_index", "boi_token_index", "eoi_token_index", "seg_token_id")
        ids = {name: getattr(small, name) for name in names}
        config = build_real_config(work.gemma, **ids) if work.size == "real" else _middle_config(work.sam, side, ids)
    config.text_config.vocab_size = work.vocabulary or VOCABULARIES[work.size] or config.text_config.vocab_size
    return config, processor


def _middle_config(sam: str, side: int, ids: dict[str, int]) -> GemmaLisaConfig:
    text_config = Gemma3TextConfig(
        hidden_size=512,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        query_pre_attn_scalar=64,
        intermediate_size=2048,
        sliding_window=1024,
    )
    vision_config = SiglipVisionConfig(
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
        patch_size=14,  # 16 × 16 patches, so the pooling to 256 image tokens changes nothing
        image_size=side,
        vision_use_head=False,
    )
    hidden, layers, heads, with_global_attention = SAM_SIZES[sam]
    sam_config = SamConfig(
        vision_config=dict(
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            global_attn_indexes=with_global_attention,
        )
    )
    configs = {"text_config": text_config, "vision_config": vision_config, "sam_config": sam_config}
    return GemmaLisaConfig(**{name: part.to_dict() for name, part in configs.items()}, **ids)


def build_stand_in(work: Work) -> tuple[GemmaLisaForConditionalGeneration, GemmaLisaProcessor]:
    """Return a model with random weights in `work.dtype` on the device, and its processor."""
    config, processor = build_sizes(work)
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(work.dtype)
    try:
        with torch.device(work.device):
            model = GemmaLisaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(default)
    if work.size != "real":  # the libraries' initialization is enough for times, and faster
        initialize(model)
    tokenizer = processor.tokenizer
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, processor


# ---------------------------------------------------------------------------------------------------------------------
# Inputs
# ---------------------------------------------------------------------------------------------------------------------
def make_samples(work: Work) -> list[dict]:
    """Return one sample per image: noise, with questions that have one mask each."""
    generator = np.random.default_rng(0)
    height, width = work.mask_size
    samples = []
    for number in range(work.images):
        masks = generator.random((work.questions, 1, height, width)) > 0.5
        samples.append(
            {
                "source": f"noise/{number}",
                "image": make_image(work, seed=number),
                "conversations": [
                    Conversation(((question_text(work, number, at), ANSWER),)) for at in range(work.questions)
                ],
                "masks": list(masks.astype(np.uint8)),
            }
        )
    return samples


def make_image(work: Work, seed: int) -> Image.Image:
    """Return a picture of noise of the size of the masks."""
    noise = np.random.default_rng(seed).integers(0, 256, (*work.mask_size, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def question_text(work: Work, image: int, question: int) -> str:
    """Return a text of `work.words` tokens. Questions of a batch differ in two tokens."""
    differing = [("the", "all", "red", "blue"), ("square", "triangle", "green", "shape")]
    words = [choices[number % len(choices)] for choices, number in zip(differing, (image, question), strict=True)]
    return (" ".join(words[: work.words]) + WORD * (work.words - len(words))).strip()


def one_row_per_question(samples: list[dict]) -> list[dict]:
    """Return the samples with one question each. Every question gets the image of its sample."""
    return [
        {**sample, "conversations": [conversation], "masks": [masks]}
        for sample in samples
        for conversation, masks in zip(sample["conversations"], sample["masks"], strict=True)
    ]


def collate(samples: list[dict], processor: GemmaLisaProcessor, config: GemmaLisaConfig, device: str) -> dict:
    """Return the batch of the samples on the device."""
    batch = GemmaLisaCollator(processor, mask_loss_size=config.mask_loss_size)(samples)
    return {name: value.to(device) for name, value in batch.items()}


def make_prompts(work: Work, processor: GemmaLisaProcessor, images: range) -> dict[str, torch.Tensor]:
    """Return the inputs of `segment` for one question about each image. images: their numbers."""
    conversations = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": make_image(work, seed=number)},
                    {"type": "text", "text": question_text(work, number, 0)},
                ],
            }
        ]
        for number in images
    ]
    inputs = processor.apply_chat_template(
        conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return {name: value.to(work.device) for name, value in inputs.items()}


@contextmanager
def forced_answers(model: GemmaLisaForConditionalGeneration) -> Iterator[None]:
    """Make every answer have one `[SEG]`, as token SEG_STEP + 1, and no end.

    Random weights would give answers of any length without masks. One answer, or batch of answers, per context.
    """
    step = 0

    def force(module, inputs, logits):
        nonlocal step
        last = logits[:, -1]  # (B, V)
        last[:, model.stop_token_ids] = -torch.inf
        last[:, model.config.seg_token_id] = torch.inf if step == SEG_STEP else -torch.inf
        step += 1
        return logits

    hook = model.get_output_embeddings().register_forward_hook(force)
    try:
        yield
    finally:
        hook.remove()
