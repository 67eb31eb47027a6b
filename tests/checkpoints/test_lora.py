"""Adapters: which weights they train, what their file contains, and merging them."""

import copy
import json
import re
import shutil

import pytest
import torch
from adapter_runs import ATTENTION, MLP, RANK, answers_of, moved_between, of_text
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gemma_lisa.checkpoints.checksums import CHECKSUMS
from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.checkpoints.lora import (
    LORA_TARGETS,
    TEXT_LINEARS,
    add_lora,
    check_patterns,
    whole_modules,
)
from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.evaluation.protocols import by_generation

# Parts of SAM without a gradient: its IoU estimate, and the masks for ambiguous prompts.
WITHOUT_GRADIENT = ("iou_prediction_head.", *(f"output_hypernetworks_mlps.{number}." for number in (1, 2, 3)))


def pulled(model, *prefixes):
    """Return the names of the parameters with these prefixes that a training step must change."""
    return {
        name
        for name, _ in model.named_parameters()
        if name.startswith(prefixes) and not any(part in name for part in WITHOUT_GRADIENT)
    }


@pytest.mark.parametrize("mlp", [False, True], ids=["attention", "attention and MLP"])
def test_lora_changes_only_its_targets_the_seg_row_and_the_modules_trained_in_full(tiny, train, mlp):
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

    # The base weights below the adapter do not change
    held = dict(model.get_base_model().named_parameters())
    for name, parameter in before.named_parameters():
        found = [held[key] for key in held if plain_name(key) == name]
        assert len(found) == 1 and torch.equal(found[0], parameter) and not found[0].requires_grad, name


def plain_name(key):
    """Return the name in the base model of a parameter that PEFT wrapped, or None for a parameter of PEFT."""
    own = ("lora_", "modules_to_save", "trainable_tokens_")
    wraps = (".base_layer", ".original_module", ".token_adapter")
    if any(part in key for part in own):
        return None
    for part in wraps:
        key = key.replace(part, "")
    return key


def test_training_the_projector_changes_only_the_projector(tiny, train):
    _, folder = train(trainable=["seg_projector.*"])
    assert moved_between(tiny[0], load_checkpoint(folder)[0]) == pulled(tiny[0], "seg_projector.")


def test_full_training_changes_the_text_model_but_not_the_vision_encoders(tiny, train):
    _, folder = train()
    moved = moved_between(tiny[0], load_checkpoint(folder)[0])
    assert moved >= pulled(tiny[0], "model.language_model.", "seg_projector.", "sam.mask_decoder.")
    assert not any(
        name.startswith(("model.vision_tower.", "model.multi_modal", "sam.vision_encoder.")) for name in moved
    )


def test_the_adapter_file_contains_one_row_instead_of_the_embedding_matrix(tiny, lora):
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


def test_the_patterns_match_the_text_model_only(tiny):
    for pattern, names in ((LORA_TARGETS, ATTENTION), (TEXT_LINEARS, ATTENTION | MLP)):
        matched = {f"{name}.weight" for name, _ in tiny[0].named_modules() if re.fullmatch(pattern, name)}
        assert matched == of_text(tiny[0], names)


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (["model.language_model.*"], "which LoRA trains"),
        (["*"], "which LoRA trains"),
        (["sam.mask_decoder.no_such.*"], "no parameter of the model matches sam.mask_decoder.no_such"),
        (["seg_projector.0.weight"], "seg_projector.0.weight is only a part of a module"),
    ],
)
def test_modules_that_cannot_be_trained_in_full_with_lora_are_an_error(tiny, patterns, said):
    with pytest.raises(ValueError, match=said):
        whole_modules(tiny[0], patterns)


def test_patterns_are_resolved_to_the_largest_matching_modules(tiny):
    patterns = ["seg_projector.*", "sam.vision_encoder.*", "sam.prompt_encoder.*", "model.multi_modal_projector.*"]
    assert whole_modules(tiny[0], patterns) == [
        "model.multi_modal_projector",
        "sam.vision_encoder",
        "sam.prompt_encoder.no_mask_embed",
        "seg_projector",
    ]


def test_an_adapter_with_a_missing_weight_is_an_error(lora, tmp_path):
    for path in lora[1].iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "adapter_model.safetensors")
    gone = next(name for name in weights if "lora_B" in name)
    del weights[gone]
    save_file(weights, tmp_path / "adapter_model.safetensors")
    (tmp_path / CHECKSUMS).unlink()  # so that the checksums do not raise first
    with pytest.raises(ValueError, match="1 weight is missing, unexpected or of the wrong shape"):
        load_checkpoint(tmp_path)


def test_an_adapted_model_generates_the_same_answers_as_the_merged_model(lora, rows):
    model, folder = lora
    merged, processor = load_checkpoint(folder)
    questions = EvaluationQuestions(rows.select(range(2)), with_conversations=False)
    asked = [questions[at] for at in range(3)]
    mine, theirs = (by_generation(kind.eval(), processor, asked, 6) for kind in (model, merged))
    assert [answer.text for answer in mine] == [answer.text for answer in theirs]


def test_an_adapter_without_a_recorded_base_is_an_error(tiny, tmp_path):
    model = add_lora(copy.deepcopy(tiny[0]), RANK)
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "base.json").exists()
    with pytest.raises(ValueError, match=r"base.json: cannot be read \(.*\); expected name, revision and fingerprint"):
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
def test_a_regular_expression_in_an_adapter_configuration_is_an_error(tmp_path, name, value):
    config = {"target_modules": LORA_TARGETS, "rank_pattern": {}, name: value}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"adapter_config.json: {name} is .*expected names of modules"):
        check_patterns(tmp_path)


@pytest.mark.parametrize("targets", [LORA_TARGETS, TEXT_LINEARS, ["q_proj", "self_attn.v_proj"]])
def test_module_names_and_the_patterns_of_the_project_are_accepted(tmp_path, targets):
    config = {"target_modules": targets, "exclude_modules": None, "rank_pattern": {"layers.0.q_proj": 8}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    check_patterns(tmp_path)


def test_an_adapter_with_a_regular_expression_is_an_error_before_it_is_loaded(lora, base, tmp_path):
    shutil.copytree(lora[1], tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": "([a-z_.0-9]+)+!"}))
    with pytest.raises(ValueError, match="target_modules is .*expected names of modules"):
        load_checkpoint(tmp_path / "adapter")
