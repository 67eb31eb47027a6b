"""Adapters: what moves and what does not, what their file holds, nf4 and int8 below them, and merging them."""

import copy
import json
import re
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers.integrations import HfDeepSpeedConfig

from gemma_lisa.checkpoints.adapter_base import identify
from gemma_lisa.checkpoints.checksums import CHECKSUMS
from gemma_lisa.checkpoints.loading import load_checkpoint, open_checkpoint
from gemma_lisa.checkpoints.lora import (
    LORA_TARGETS,
    TEXT_LINEARS,
    AdaptedGemmaLisa,
    add_lora,
    check_patterns,
    count_weights,
    quantization_config,
    type_of,
    whole_modules,
)
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.questions import EvaluationQuestions, TrainingQuestions
from gemma_lisa.evaluation.protocols import by_generation
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.training.arguments import ModelArguments, parse
from gemma_lisa.training.describe_run import describe
from gemma_lisa.training.load_model import load_model
from gemma_lisa.training.previews import PreviewCallback
from gemma_lisa.training.trainer import GemmaLisaTrainer
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments

STEPS = 3
RANK = 4
ATTENTION = {f"self_attn.{letter}_proj.weight" for letter in "qkvo"}
MLP = {f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")}
# What nothing pulls at: SAM's own estimate of the IoU, and the decoder's answers to prompts of several meanings.
UNPULLED = ("iou_prediction_head.", *(f"output_hypernetworks_mlps.{number}." for number in (1, 2, 3)))


@pytest.fixture(scope="module")
def base(tiny, tmp_path_factory):
    """A folder with a small random Gemma-LISA."""
    folder = tmp_path_factory.mktemp("base")
    for part in tiny:
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def batch(tiny, samples):
    """Two rows as `forward` takes them."""
    return GemmaLisaCollator(tiny[1])(samples[:2])


def trainer_of(model, processor, rows, folder, **options):
    arguments = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.01,
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        **options,
    }
    return GemmaLisaTrainer(
        model=model,
        args=GemmaLisaTrainingArguments(output_dir=str(folder), **arguments),
        data_collator=GemmaLisaCollator(processor),
        train_dataset=TrainingQuestions(rows, seed=0, max_questions=2),
        eval_dataset=EvaluationQuestions(rows.select(range(2)), with_conversations=False),
        processing_class=processor,
    )


@pytest.fixture(scope="module")
def train(base, rows, tmp_path_factory):
    """Trains a few steps with the options of train.py; gives the model and the folder it was saved to."""

    def call(model=None, **options):
        folder = tmp_path_factory.mktemp("trained")
        adapted, processor = load_model(ModelArguments(str(model or base), **options), device=torch.device("cpu"))
        trainer = trainer_of(adapted, processor, rows, folder)
        trainer.train()
        trainer.save_model()
        return adapted, folder

    return call


@pytest.fixture(scope="module")
def lora(train):
    """(model, folder) of a LoRA run."""
    return train(lora_rank=RANK)


def answers_of(model, batch):
    """All that the model says of the batch: logits, then mask logits."""
    with torch.no_grad():
        output = model.eval()(**batch)
    return torch.cat([output.logits.flatten().float(), output.pred_masks.flatten().float()])


def moved_between(before, after):
    """Names of the parameters that are not bit-equal."""
    before, after = dict(before.named_parameters()), dict(after.named_parameters())
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def of_text(model, names):
    return {
        name
        for name, _ in model.named_parameters()
        if name.startswith("model.language_model.layers.") and name.split(".", 4)[4] in names
    }


def pulled(model, *prefixes):
    """Names of the parameters below the prefixes that a step must move."""
    return {
        name
        for name, _ in model.named_parameters()
        if name.startswith(prefixes) and not any(part in name for part in UNPULLED)
    }


# --- what moves ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mlp", [False, True], ids=["attention", "attention and MLP"])
def test_lora_moves_its_targets_the_row_of_seg_and_what_is_trained_whole_and_nothing_else(tiny, train, mlp):
    model, folder = train(lora_rank=RANK, lora_mlp=mlp)
    before, after = tiny[0], load_checkpoint(folder)[0]
    embedding = "model.language_model.embed_tokens.weight"
    assert moved_between(before, after) == {
        embedding,
        *of_text(before, ATTENTION | (MLP if mlp else set())),
        *pulled(before, "seg_projector.", "sam.mask_decoder."),
    }
    changed = (before.get_parameter(embedding) != after.get_parameter(embedding)).any(1).nonzero().flatten()
    assert changed.tolist() == [before.config.seg_token_id]
    assert after.lm_head.weight is after.get_input_embeddings().weight

    # While it is trained the base lies untouched below it
    held = dict(model.get_base_model().named_parameters())
    for name, parameter in before.named_parameters():
        found = [held[key] for key in held if plain_name(key) == name]
        assert len(found) == 1 and torch.equal(found[0], parameter) and not found[0].requires_grad, name


def plain_name(key):
    """The base's own name of a parameter that PEFT wrapped; its own parameters have none."""
    own = ("lora_", "modules_to_save", "trainable_tokens_")
    wraps = (".base_layer", ".original_module", ".token_adapter")
    if any(part in key for part in own):
        return None
    for part in wraps:
        key = key.replace(part, "")
    return key


def test_training_the_bridge_moves_the_bridge_and_nothing_else(tiny, train):
    _, folder = train(trainable=["seg_projector.*"])
    assert moved_between(tiny[0], load_checkpoint(folder)[0]) == pulled(tiny[0], "seg_projector.")


def test_full_training_moves_the_whole_text_model_and_no_tower(tiny, train):
    _, folder = train()
    moved = moved_between(tiny[0], load_checkpoint(folder)[0])
    assert moved >= pulled(tiny[0], "model.language_model.", "seg_projector.", "sam.mask_decoder.")
    assert not any(
        name.startswith(("model.vision_tower.", "model.multi_modal", "sam.vision_encoder.")) for name in moved
    )


def test_the_adapters_file_holds_one_row_and_no_embedding_matrix(tiny, lora):
    model, folder = lora
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}
    hidden = tiny[0].config.text_config.hidden_size
    table = [name for name in shapes if "embed_tokens" in name or "lm_head" in name]
    assert [shapes[name] for name in table] == [[1, hidden]] and "trainable_tokens_delta" in table[0]
    assert not any("original_module" in name or "base_layer" in name for name in shapes)
    numbers = sum(torch.Size(shape).numel() for shape in shapes.values())
    assert numbers == sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert numbers * 4 < (folder / "adapter_model.safetensors").stat().st_size < numbers * 4 * 1.1
    names = {path.name for path in folder.iterdir()}
    assert {"base.json", "adapter_config.json", "processor_config.json", "tokenizer.json"} <= names
    assert not names & {"config.json", "model.safetensors", "README.md"}


@pytest.mark.parametrize("kind", ["use_dora", "use_rslora"])
def test_dora_and_rslora_train_and_merge(train, batch, kind):
    model, folder = train(lora_rank=RANK, lora_alpha=6.0, **{kind: True})
    merged, _ = load_checkpoint(folder)
    assert getattr(model.peft_config["default"], kind)
    assert (answers_of(merged, batch) - answers_of(model, batch)).abs().max() < 1e-4


# --- below it: nf4 and int8 ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["load_in_4bit", "load_in_8bit"])
def test_an_adapter_trained_on_a_quantised_base_reloads_exactly_and_merges_onto_the_real_one(
    train, base, batch, tiny, kind
):
    model, folder = train(lora_rank=RANK, **{kind: True})
    said = answers_of(model, batch)
    again, _ = load_checkpoint(folder, **{kind: True})
    assert isinstance(again, AdaptedGemmaLisa)
    assert torch.equal(answers_of(again, batch), said)

    merged, _ = load_checkpoint(folder)
    beside, _ = open_checkpoint(folder)
    assert isinstance(beside, AdaptedGemmaLisa) and not isinstance(merged, AdaptedGemmaLisa)
    difference = (answers_of(merged, batch) - answers_of(beside, batch)).abs().max()
    assert difference < 1e-5 * said.abs().max()
    assert (answers_of(tiny[0], batch) - said).abs().max() > 0.1 * said.abs().max()  # something was learned


@pytest.mark.parametrize("kind", ["load_in_4bit", "load_in_8bit"])
def test_the_text_models_linear_layers_are_quantised_and_nothing_else(base, tiny, kind):
    model, _ = load_checkpoint(base, **{kind: True})
    wanted = "nf4" if kind == "load_in_4bit" else "int8"
    quantised = {name for name, parameter in model.named_parameters() if type_of(parameter) == wanted}
    assert quantised == of_text(tiny[0], ATTENTION | MLP)
    assert {type_of(p) for name, p in model.named_parameters() if name not in quantised} == {"fp32"}
    assert sum(map(count_weights, model.parameters())) == tiny[0].num_parameters()


def test_the_patterns_match_the_text_model_only(tiny):
    for pattern, names in ((LORA_TARGETS, ATTENTION), (TEXT_LINEARS, ATTENTION | MLP)):
        matched = {f"{name}.weight" for name, _ in tiny[0].named_modules() if re.fullmatch(pattern, name)}
        assert matched == of_text(tiny[0], names)


def test_nf4_or_int8_not_both():
    assert quantization_config(False, False) is None
    with pytest.raises(ValueError, match="choose one"):
        quantization_config(True, True)


# --- precision -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "trained", "frozen"),
    [
        ({"lora_rank": RANK}, {"fp32"}, {"bf16"}),
        ({"lora_rank": RANK, "load_in_4bit": True}, {"fp32"}, {"bf16", "nf4"}),
        ({"trainable": ["seg_projector.*"]}, {"fp32"}, {"bf16"}),
        ({}, {"fp32"}, {"fp32"}),
    ],
    ids=["LoRA", "QLoRA", "bridge", "full"],
)
def test_what_is_trained_is_held_in_fp32_and_what_is_frozen_in_bf16(base, options, trained, frozen):
    model, _ = load_model(ModelArguments(str(base), **options), torch.bfloat16, torch.device("cpu"))
    types = {True: set(), False: set()}
    for name, parameter in model.named_parameters():
        if "shared_" in name:  # SAM's positional code, always exact
            assert type_of(parameter) == "fp32"
        else:
            types[parameter.requires_grad].add(type_of(parameter))
    assert types == {True: trained, False: frozen}
    text = describe(model, [], GemmaLisaTrainingArguments("out", use_cpu=True, bf16=True))
    assert "weights in fp32" in text and ("bf16" in text.split("weights in")[1].split(", computed")[0]) == (
        "bf16" in frozen
    )


def test_a_lora_run_in_bf16_with_activation_checkpointing_learns(base, rows, tmp_path):
    model, processor = load_model(ModelArguments(str(base), lora_rank=RANK), torch.bfloat16)
    trainer = trainer_of(model, processor, rows, tmp_path, bf16=True, max_steps=6, activation_checkpointing=True)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]


def test_on_4_bits_every_layer_learns_after_an_evaluation_as_before(base, batch):
    model, _ = load_model(ModelArguments(str(base), lora_rank=RANK, load_in_4bit=True), torch.bfloat16)
    gradients = []
    for _ in range(2):
        model.train()(**batch).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if "lora_B" in name})
        model.zero_grad()
        with torch.no_grad():
            model.eval()(**batch)
    first, again = gradients
    assert first and all(gradient.abs().max() > 0 for gradient in first.values())
    assert all(torch.equal(first[name], again[name]) for name in first)


# --- the trainer on an adapted model ---------------------------------------------------------------------------------
def test_the_trainer_evaluates_and_draws_an_adapted_model_as_the_merged_one(base, rows, lora, tmp_path):
    model, folder = lora
    merged, processor = load_checkpoint(folder)
    trainer = trainer_of(model, processor, rows, tmp_path)
    trainer.add_callback(PreviewCallback(processor, [trainer.eval_dataset[0]], max_new_tokens=4))
    mine, theirs = trainer.evaluate(), trainer_of(merged, processor, rows, tmp_path).evaluate()
    assert mine["eval_loss"] == pytest.approx(theirs["eval_loss"], rel=1e-5)
    assert {name: mine[name] for name in ("eval_gIoU", "eval_count", "eval_N-acc")} == {
        name: theirs[name] for name in ("eval_gIoU", "eval_count", "eval_N-acc")
    }
    assert (tmp_path / "previews" / "step-000000.png").stat().st_size > 0


def test_the_loss_of_an_adapted_model_is_that_of_its_base_before_the_first_step(base, tiny, rows, tmp_path):
    model, processor = load_model(ModelArguments(str(base), lora_rank=RANK))
    first = trainer_of(model, processor, rows, tmp_path, max_steps=1)
    whole, _ = load_model(ModelArguments(str(base)))
    second = trainer_of(whole, processor, rows, tmp_path, max_steps=1)
    for trainer in (first, second):
        trainer.train()
    losses = [trainer.state.log_history[0]["loss"] for trainer in (first, second)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_resumed_lora_run_is_the_uninterrupted_one(base, rows, tmp_path):
    def run(folder, resume=None, steps=4):
        torch.manual_seed(0)
        options = ModelArguments(str(base), lora_rank=RANK, lora_dropout=0.1, use_dora=True)
        model, processor = load_model(options)
        trainer = trainer_of(
            model, processor, rows, folder, max_steps=steps, save_strategy="steps", save_steps=2, warmup_steps=2
        )
        trainer.train(resume_from_checkpoint=resume)
        return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    whole = run(tmp_path / "whole")
    resumed = run(tmp_path / "resumed", str(tmp_path / "whole" / "checkpoint-2"))
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)


# --- going on --------------------------------------------------------------------------------------------------------
def test_training_goes_on_from_an_adapter_without_any_option(train, lora, batch):
    model, folder = lora
    loaded, _ = load_model(ModelArguments(str(folder)))
    assert torch.equal(answers_of(loaded, batch), answers_of(model, batch))
    trained = {name for name, p in loaded.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in model.named_parameters() if p.requires_grad}
    _, further = train(model=folder)
    assert json.loads((further / "base.json").read_text()) == json.loads((folder / "base.json").read_text())
    assert (answers_of(load_checkpoint(further)[0], batch) - answers_of(model, batch)).abs().max() > 0.01


def test_training_goes_on_from_a_merged_checkpoint_and_from_a_full_one(train, lora, tmp_path):
    merged, processor = load_checkpoint(lora[1])
    for part in (merged, processor):
        part.save_pretrained(tmp_path)
    model, _ = train(model=tmp_path, lora_rank=RANK)
    assert model.base == identify(tmp_path)
    train(model=tmp_path, trainable=["seg_projector.*"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lora_rank": 8}, "lora_rank 4, not 8; lora_alpha 8, not 16"),
        ({"lora_mlp": True}, "lora_mlp False, not True"),
        ({"lora_rank": RANK, "use_dora": True}, "use_dora False, not True"),
        ({"trainable": ["seg_projector.*"]}, "trained whole sam.mask_decoder, seg_projector, not seg_projector"),
    ],
    ids=["rank", "mlp", "dora", "trainable"],
)
def test_options_that_disagree_with_the_adapter_are_refused(lora, options, said):
    with pytest.raises(ValueError, match=said):
        load_model(ModelArguments(str(lora[1]), **options))


def test_options_that_agree_with_the_adapter_are_taken(lora):
    options = {"lora_rank": RANK, "lora_alpha": 8.0, "trainable": ["sam.mask_decoder.*", "seg_projector.*"]}
    assert isinstance(load_model(ModelArguments(str(lora[1]), **options))[0], AdaptedGemmaLisa)


# --- options that make no sense --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (["model.language_model.*"], "which LoRA trains"),
        (["*"], "which LoRA trains"),
        (["sam.mask_decoder.no_such.*"], "matches no parameter"),
        (["seg_projector.0.weight"], "seg_projector.0.weight is a part"),
    ],
)
def test_what_cannot_be_trained_whole_beside_lora_is_refused(tiny, patterns, said):
    with pytest.raises(ValueError, match=said):
        whole_modules(tiny[0], patterns)


def test_patterns_become_the_largest_modules_they_cover(tiny):
    patterns = ["seg_projector.*", "sam.vision_encoder.*", "sam.prompt_encoder.*", "model.multi_modal_projector.*"]
    assert whole_modules(tiny[0], patterns) == [
        "model.multi_modal_projector",
        "sam.vision_encoder",
        "sam.prompt_encoder.no_mask_embed",
        "seg_projector",
    ]


def test_every_module_that_can_be_trained_whole_is(base, rows, tmp_path):
    patterns = ["seg_projector.*", "sam.vision_encoder.*", "model.vision_tower.*", "model.multi_modal_projector.*"]
    patterns += ["sam.mask_decoder.*", "sam.prompt_encoder.no_mask_embed.*"]
    model, processor = load_model(ModelArguments(str(base), patterns, lora_rank=RANK), torch.bfloat16)
    trainer = trainer_of(model, processor, rows, tmp_path, bf16=True)
    trainer.train()
    trainer.save_model()
    moved = moved_between(load_checkpoint(base, torch.bfloat16)[0], load_checkpoint(tmp_path, torch.bfloat16)[0])
    for prefix in ("sam.vision_encoder.", "model.vision_tower.", "model.multi_modal_projector.", "sam.prompt_encoder."):
        assert any(name.startswith(prefix) for name in moved), prefix


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--load_in_4bit", "true"], "load_in_4bit without LoRA"),
        (["--load_in_8bit", "true"], "load_in_8bit without LoRA"),
        (["--load_in_4bit", "true", "--load_in_8bit", "true", "--lora_rank", "4"], "choose one"),
        (["--load_in_8bit", "true", "--lora_rank", "4", "--use_dora", "true"], "use_dora with load_in_8bit"),
        (["--lora_rank", "0"], "lora_rank"),
        (["--lora_mlp", "true", "--lora_dropout", "0.1"], "lora_dropout, lora_mlp without LoRA"),
    ],
)
def test_options_that_do_not_go_together_are_usage_errors(tmp_path, arguments, word):
    with pytest.raises(UsageError, match=word):
        parse(["--model", "some/model", "--output_dir", str(tmp_path), "--use_cpu", "true", *arguments])


@pytest.mark.parametrize("kind", ["load_in_4bit", "load_in_8bit"])
def test_quantised_weights_are_refused_with_zero_3_and_taken_with_zero_2(tmp_path, kind):
    arguments = ["--model", "some/model", "--output_dir", str(tmp_path), "--use_cpu", "true", "--lora_rank", "4"]
    for stage in (2, 3):
        engine = HfDeepSpeedConfig({"zero_optimization": {"stage": stage}})  # what makes transformers say it is on
        if stage == 2:
            parse([*arguments, f"--{kind}", "true"])
            continue
        with pytest.raises(UsageError, match=f"{kind} with ZeRO-3: .*use ZeRO-2"):
            parse([*arguments, f"--{kind}", "true"])
        del engine


def test_an_adapter_whose_file_lacks_a_weight_is_refused(lora, tmp_path):
    for path in lora[1].iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "adapter_model.safetensors")
    gone = next(name for name in weights if "lora_B" in name)
    del weights[gone]
    save_file(weights, tmp_path / "adapter_model.safetensors")
    (tmp_path / CHECKSUMS).unlink()  # or they would tell first
    with pytest.raises(ValueError, match="1 weights are missing or left over"):
        load_checkpoint(tmp_path)


def test_an_adapted_model_answers_by_generation(lora, rows):
    model, folder = lora
    merged, processor = load_checkpoint(folder)
    questions = EvaluationQuestions(rows.select(range(2)), with_conversations=False)
    asked = [questions[at] for at in range(3)]
    mine, theirs = (by_generation(kind.eval(), processor, asked, 6) for kind in (model, merged))
    assert [answer.raw_text for answer in mine] == [answer.raw_text for answer in theirs]


def test_add_lora_works_without_a_record_of_the_base(tiny, tmp_path):
    model = add_lora(copy.deepcopy(tiny[0]), RANK)
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "base.json").exists()
    with pytest.raises(ValueError, match="base.json: it should say which base"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("target_modules", "([a-z_.0-9]+)+!"),
        ("target_modules", "all-linear"),
        ("target_modules", ["q_proj", "(a+)+"]),
        ("target_modules", [["q_proj"]]),
        ("target_modules", 3),
        ("exclude_modules", "([a-z_.0-9]+)+!"),
        ("layers_pattern", "([a-z_.0-9]+)+"),
        ("rank_pattern", {"([a-z_.0-9]+)+!": 8}),
        ("alpha_pattern", {"([a-z_.0-9]+)+!": 8}),
    ],
)
def test_an_adapter_does_not_choose_a_regular_expression_that_is_run(tmp_path, name, value):
    config = {"target_modules": LORA_TARGETS, "rank_pattern": {}, name: value}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"adapter_config.json: {name} is .*expected names of modules"):
        check_patterns(tmp_path)


@pytest.mark.parametrize("targets", [LORA_TARGETS, TEXT_LINEARS, ["q_proj", "self_attn.v_proj"]])
def test_names_of_modules_and_the_patterns_of_the_project_are_taken(tmp_path, targets):
    config = {"target_modules": targets, "exclude_modules": None, "rank_pattern": {"layers.0.q_proj": 8}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    check_patterns(tmp_path)


def test_an_adapter_with_a_pattern_of_its_own_is_refused_before_it_is_opened(lora, base, tmp_path):
    shutil.copytree(lora[1], tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": "([a-z_.0-9]+)+!"}))
    with pytest.raises(ValueError, match="target_modules is .*expected names of modules"):
        load_checkpoint(tmp_path / "adapter")
