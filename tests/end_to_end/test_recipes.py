"""Every recipe is parsed, and changes only the parameters that it trains, at its rates."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from gemma_lisa import train
from gemma_lisa.checkpoints.lora import part_of_weight
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.configuration_gemma_lisa import BRIDGES
from gemma_lisa.datasets_builder.questions import TrainingQuestions
from gemma_lisa.scripts.init_tiny import build_tiny
from gemma_lisa.training.describe_run import SMALL_BATCH
from gemma_lisa.training.optimizers import OTHER
from gemma_lisa.training.trainer import GemmaLisaTrainer

ROOT = Path(train.__file__).parent
RECIPES = sorted((ROOT / "configs").glob("*.yaml"))
WITH_LORA = {"LoRA", "the row of [SEG]", "seg_projector", "sam.mask_decoder"}
FROZEN = {"LoRA", "the row of [SEG]"}  # with `learn_text: false`
SEEING = {"model.vision_tower", "model.multi_modal_projector", "sam.prompt_encoder"}
EVERYTHING = {
    *("model.language_model", "model.vision_tower", "model.multi_modal_projector"),
    *("seg_projector", "sam.vision_encoder", "sam.mask_decoder", "sam.prompt_encoder"),
}
# Recipe -> the parts that it trains, as in train.py's description
TRAINED = {
    "align-bridge": {"seg_projector"},
    "few_pictures": EVERYTHING,
    "finetune-your-data": WITH_LORA,
    "gemma3-12b-lora-fsdp2": WITH_LORA,
    "gemma3-270m-reason": WITH_LORA | SEEING,
    "gemma3-270m-reason-text": WITH_LORA | SEEING,
    "gemma3-270m-reason-bridge": (WITH_LORA | SEEING) - FROZEN,
    "gemma3-27b-lora-zero3": WITH_LORA,
    "gemma3-4b-full-zero3": {"model.language_model", "seg_projector", "sam.mask_decoder"},
    "gemma3-4b-lora": WITH_LORA,
    "gemma3-4b-qlora-24gb": WITH_LORA,
    "lisa_mix": WITH_LORA,
    "lisa_reason_seg": WITH_LORA,
    "shapes": EVERYTHING,
    "shapes_drawings": EVERYTHING,
    "shapes_clicks_drawings": {"sam.mask_decoder", "sam.prompt_encoder"},
    "shapes_clicks": {"sam.mask_decoder", "sam.prompt_encoder"},
    "shapes_easy_first": EVERYTHING,
    "shapes_long": EVERYTHING,
    "shapes_lora": {*WITH_LORA, "sam.vision_encoder", "model.vision_tower", "model.multi_modal_projector"},
    "shapes_conversations": EVERYTHING,
    "shapes_text": {"model.language_model", "model.vision_tower", "model.multi_modal_projector"},
}
OF_MASKS = {"seg_projector", "sam.mask_decoder", "sam.prompt_encoder"}
# Trained parameters of a part that is not trained completely. Without simulated prompts, SAM's prompt encoder gets a
# gradient only here, or in its embedding of masks if the bridge has a heat map.
ONLY = {"mlp": "sam.prompt_encoder.no_mask_embed.", "heat_map": "sam.prompt_encoder.mask_embed."}
# Parameters without a gradient: the decoder's further masks for ambiguous prompts, and SAM's estimate of the IoU if the
# recipe has no weight for it.
NO_GRADIENT = re.compile(r"output_hypernetworks_mlps\.[123]\.")
SCORES = re.compile(r"iou_prediction_head")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folders = {}
    for bridge in BRIDGES:
        folders[bridge] = tmp_path_factory.mktemp(bridge)
        model, processor = build_tiny(image_size=64, bridge=bridge)
        model.save_pretrained(folders[bridge])
        processor.save_pretrained(folders[bridge])
    return folders


@pytest.fixture
def checkpoint(checkpoints, path):
    return checkpoints["heat_map" if "-reason" in path.stem else "mlp"]


def parse(path, checkpoint, folder, *more):
    return train.parse(
        ["--config", str(path), "--model", str(checkpoint), "--output_dir", str(folder), "--use_cpu", "true", *more]
    )


def test_each_recipe_is_listed():
    assert {path.stem for path in RECIPES} == set(TRAINED)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_parsed(path, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    content = yaml.safe_load(path.read_text())
    model_args, data_args, args = parse(path, checkpoint, tmp_path)
    assert ("dataset" in content) != ("mixture" in content)
    if isinstance(content.get("mixture"), str):
        content["mixture"] = yaml.safe_load(Path(content["mixture"]).read_text())["mixture"]
    written = {**vars(model_args), **vars(data_args), **vars(args)}
    assert {name: written[name] for name in content} == content
    if "global_batch_size" in content:
        assert args.samples_per_step == content["global_batch_size"]
        assert content["global_batch_size"] >= SMALL_BATCH or "270m" in path.stem


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_only_the_parameters_that_a_recipe_trains_change(path, checkpoint, rows, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    steps = (
        "8" if "prompted_loss_weight" in yaml.safe_load(path.read_text()) else "3"
    )  # so that foreground and background points occur
    small = ["--max_steps", steps, "--warmup_steps", "0", "--lr_scheduler_type", "constant", "--eval_strategy", "no"]
    small += ["--lr_scheduler_kwargs", "{}", "--save_strategy", "no", "--dataloader_num_workers", "0"]
    small += ["--per_device_train_batch_size", "2", "--disable_tqdm", "true"]
    if "global_batch_size" in yaml.safe_load(path.read_text()):
        small += ["--global_batch_size", "2"]
    model_args, data_args, args = parse(path, checkpoint, tmp_path, *small)
    model, processor = train.load_model(model_args, torch.bfloat16 if args.bf16 else torch.float32)
    if not data_args.learn_text:
        train.freeze_text_model(model, args)

    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    names = {name: part_of_weight(name) for name, _ in model.named_parameters()}
    assert {names[name] for name in trained} == TRAINED[path.stem]
    for part in TRAINED[path.stem]:
        whole = [name for name, of in names.items() if of == part]
        if part == "sam.prompt_encoder" and not model.config.prompted_loss_weight:
            whole = [name for name in whole if ONLY[model.config.bridge] in name]
        assert sorted(trained & set(whole)) == sorted(whole)
    for name in trained:
        if names[name] == "LoRA":
            layers = "self_attn|mlp" if model_args.lora_mlp else "self_attn"
            assert re.search(rf"model\.language_model\.layers\.\d+\.({layers})\.", name), name
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters() if parameter.requires_grad)

    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer = GemmaLisaTrainer(
        model=model,
        args=args,
        data_collator=GemmaLisaCollator(processor, data_args.learn_masks),
        train_dataset=TrainingQuestions(rows, 0, data_args.max_questions),
        processing_class=processor,
        optimizer_cls_and_kwargs=train.muon_of(args),
        text_states=None if data_args.learn_text else train.TextStates(model),
    )
    trainer.train()
    # Compare bytes: packed 4-bit values read as bf16 can be NaN, which is not equal to itself
    bits = {name: parameter.detach().view(torch.uint8) for name, parameter in model.named_parameters()}
    moved = {name for name in bits if not torch.equal(bits[name], before[name].view(torch.uint8))}
    assert moved <= trained
    still = {name for name in trained - moved if not NO_GRADIENT.search(name)}
    if not model.config.score_loss_weight:
        still = {name for name in still if not SCORES.search(name)}
    if not data_args.learn_masks:  # an adapter holds these for its next stage
        still = {name for name in still if names[name] not in OF_MASKS}
    assert still == set()

    if args.muon_learning_rate is None:
        content = yaml.safe_load(path.read_text())
        of_part = {"lora": "lora_learning_rate", "bridge": "bridge_learning_rate", "decoder": "decoder_learning_rate"}
        for group in trainer.optimizer.param_groups:
            rate = content.get(of_part.get(group["part"]), content.get("learning_rate"))
            assert group["lr"] == rate, group["part"]
            assert group["part"] != OTHER or "learning_rate" in content
