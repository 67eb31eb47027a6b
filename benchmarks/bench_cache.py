"""Measure a training epoch without a feature cache, with an empty one, and with a filled one, on a CPU.

    python benchmarks/bench_cache.py

The parts are those of train.py. The model has random weights: Gemma 512 wide × 8, SigLIP 192 × 4 at 224 pixels, and
SAM 192 × 4 at 1024 pixels. The data are photos of 640 × 480 pixels with three questions each. Times are CPU seconds of
one thread.
"""

import argparse
import io
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from transformers import SamConfig

from gemma_lisa.checkpoints.training_record import commit
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.configuration_gemma_lisa import GemmaLisaConfig
from gemma_lisa.datasets_builder.questions import EvaluationQuestions, TrainingQuestions
from gemma_lisa.datasets_builder.rows import ROW_FEATURES, encode_mask, new_row, new_target
from gemma_lisa.feature_cache.cache import FeatureCache
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor
from gemma_lisa.scripts.init_tiny import build_config, build_processor, initialize
from gemma_lisa.training.cache_filling import open_filled
from gemma_lisa.training.trainer import GemmaLisaTrainer
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments

PHOTO = (480, 640)  # (height, width) in pixels
QUESTIONS, BATCH_SIZE = 3, 2
GEMMA_SIDE, SAM_SIDE = 224, 1024  # pixels
TINY_SIDE = 64  # pixels; the tiny processor has 16 tokens per image of this size
TRAINED = ("model.language_model.", "seg_projector.", "sam.mask_decoder.")
ENTRIES_READ = 3  # times that each entry is read


def build_model(sam_side: int) -> tuple[GemmaLisaForConditionalGeneration, GemmaLisaProcessor]:
    """Return a model with frozen image encoders, and its processor."""
    processor = build_processor(TINY_SIDE)
    processor.image_processor.size = {"height": GEMMA_SIDE, "width": GEMMA_SIDE}
    processor.sam_image_processor.size = {"longest_edge": sam_side}
    processor.sam_image_processor.pad_size = {"height": sam_side, "width": sam_side}
    sam = SamConfig(
        vision_config={
            "hidden_size": 192,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "mlp_dim": 768,
            "global_attn_indexes": [1, 3],
            "image_size": sam_side,
        },
        prompt_encoder_config={"image_size": sam_side},
    )
    fields = build_config(processor, sam_side).to_dict() | {"sam_config": sam.to_dict()}
    fields["text_config"] |= {"hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 2048, "head_dim": 128}
    fields["text_config"]["layer_types"] = ["full_attention"] * 8
    fields["vision_config"] |= {"hidden_size": 192, "num_hidden_layers": 4, "intermediate_size": 768}
    fields["vision_config"] |= {"image_size": GEMMA_SIDE, "patch_size": 14}
    torch.manual_seed(0)
    model = GemmaLisaForConditionalGeneration(GemmaLisaConfig(**fields))
    initialize(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(TRAINED))
    return model, processor


def make_rows(count: int) -> Dataset:
    """Return rows with photos of colored noise that is stronger at low frequencies, and QUESTIONS boxes each."""
    generator, rows = np.random.default_rng(0), []
    for number in range(count):
        coarse = generator.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        with io.BytesIO() as file:
            Image.fromarray(coarse).resize(PHOTO[::-1], Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
            photo = file.getvalue()
        targets = []
        for at in range(QUESTIONS):
            mask = np.zeros(PHOTO, dtype=np.uint8)
            mask[100 * at : 100 * at + 150, 50:300] = 1
            targets.append(new_target([f"the object {at}"], [encode_mask(mask)]))
        rows.append(new_row(photo, f"photos/{number}", targets))
    return Dataset.from_list(rows, features=ROW_FEATURES)


def measure_epoch(model, processor, rows: Dataset, folder: Path, cache_folder: Path | None) -> tuple[float, float]:
    """Return the CPU seconds of filling the cache, 0 without one, and of training one epoch."""
    args = GemmaLisaTrainingArguments(
        output_dir=str(folder / "run"),
        per_device_train_batch_size=BATCH_SIZE,
        num_train_epochs=1,
        learning_rate=1e-5,
        save_strategy="no",
        logging_steps=10_000,
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        cache_features=None if cache_folder is None else str(cache_folder),
    )
    questions = TrainingQuestions(rows, 0, QUESTIONS), EvaluationQuestions(rows, with_conversations=False)
    start = time.process_time()
    cache = open_filled(model, processor, questions, SimpleNamespace(learn_masks=True), args, lambda line: None)
    filled = time.process_time() - start
    trainer = GemmaLisaTrainer(
        model=model,
        args=args,
        data_collator=GemmaLisaCollator(processor, with_sources=True, as_bytes=True, cache=cache),
        train_dataset=questions[0],
        eval_dataset=questions[1],
        processing_class=processor,
    )
    start = time.process_time()
    trainer.train()
    return filled, time.process_time() - start


def measure_reading(cache: FeatureCache, rows: Dataset) -> float:
    """Return the CPU milliseconds of finding and reading the features of one image."""
    start = time.process_time()
    for _ in range(ENTRIES_READ):
        for row in rows:
            cache.read([cache.find(row["image"], row["source"])])
    return 1000 * (time.process_time() - start) / (ENTRIES_READ * len(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=40, help="number of photos (default: 40)")
    parser.add_argument("--sam_side", type=int, default=SAM_SIDE, help="side of SAM's input in pixels (default: 1024)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    rows, (model, processor) = make_rows(args.photos), build_model(args.sam_side)
    print(f"{commit()}, torch {torch.__version__}, {args.photos} photos, {BATCH_SIZE} per step\n", flush=True)
    print("| epoch | filling the cache, s | training, s | together, s | times faster |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = None
        for words, cache_folder in (("without cache", None), ("cold", folder / "cache"), ("warm", folder / "cache")):
            filled, trained = measure_epoch(model, processor, rows, folder, cache_folder)
            plain = plain or trained
            numbers = f"{filled:.1f} | {trained:.1f} | {filled + trained:.1f} | {plain / (filled + trained):.2f}"
            print(f"| {words} | {numbers} |", flush=True)
        questions = TrainingQuestions(rows, 0, QUESTIONS), EvaluationQuestions(rows, with_conversations=False)
        options = GemmaLisaTrainingArguments(
            output_dir=name, use_cpu=True, cache_features=str(folder / "cache"), disable_tqdm=True
        )
        data = SimpleNamespace(learn_masks=True)
        cache = open_filled(model, processor, questions, data, options, lambda line: None)
        milliseconds = measure_reading(cache, rows)
        print(
            f"\nper image: {cache.entry_bytes / 1e6:.2f} MB, {milliseconds:.1f} ms to find, check and read", flush=True
        )


if __name__ == "__main__":
    main()
