"""export.py writes a complete folder from an adapter and its base or from shards, and checks its outputs."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from packaging.requirements import Requirement
from PIL import Image

from gemma_lisa.checkpoints.adapter_base import identify
from gemma_lisa.checkpoints.loading import EXAMPLE, load_checkpoint, open_checkpoint
from gemma_lisa.checkpoints.lora import add_lora
from gemma_lisa.pipeline_gemma_lisa import ReasoningSegmentationPipeline, custom_pipelines
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.scripts import export
from gemma_lisa.scripts.init_tiny import build_tiny

ROOT = Path(export.__file__).parents[1]
SCENE = ROOT / "docs" / "scene.png"
RECORD = {"stages": [{"command": "train.py --lora_rank 4", "steps": 3}]}
COMPLETE = {
    *("config.json", "generation_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("chat_template.jinja", "training.json", "README.md", "handler.py", "requirements.txt", "examples", "SHA256SUMS"),
    *(path.name for path in Path(__file__).parents[2].glob("*_gemma_lisa.py")),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a small random Gemma-LISA."""
    folder = tmp_path_factory.mktemp("start") / "base"
    for part in build_tiny(image_size=32):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def make_adapter(base, tmp_path_factory):
    """Return a function that creates an adapter of `base` with random weights."""

    def make(dtype=torch.float32, **options):
        folder = tmp_path_factory.mktemp("adapter")
        model, processor = load_checkpoint(base, dtype)
        model = add_lora(model, rank=4, mlp=True, base=identify(base), **options)
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn_like(parameter)
        for part in (model, processor):
            part.save_pretrained(folder)
        (folder / "training.json").write_text(json.dumps(RECORD))
        return folder

    return make


def run(*arguments):
    export.main(list(map(str, arguments)))


def shares(source, folder, **options):
    """Return the differences between the outputs of an export and its source, relative to the largest output."""
    model, processor = open_checkpoint(source, **options)
    expected = export.probe(model.eval(), processor)
    found = export.probe(*load_checkpoint(folder))
    return [((a - b).abs().max() / a.abs().max()).item() for a, b in zip(expected, found, strict=True)]


@pytest.mark.parametrize("kind", ["plain", "use_dora", "use_rslora"])
def test_an_exported_adapter_is_a_complete_folder_with_equal_outputs(base, make_adapter, tmp_path, capsys, kind):
    adapter = make_adapter(**({} if kind == "plain" else {kind: True}))
    out = tmp_path / "out"
    run("--model", adapter, "--output", out, "--max_shard_size", "1MB")
    assert COMPLETE <= {path.name for path in out.iterdir()}
    assert len(list(out.glob("*.safetensors"))) > 1
    assert not [path for path in tmp_path.iterdir() if path != out]
    assert max(shares(adapter, out)) < 1e-5
    assert max(shares(base, out)) > 1e-2  # the adapter changes the outputs
    assert json.loads((out / "training.json").read_text()) == RECORD
    config = json.loads((out / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_gemma_lisa.GemmaLisaForConditionalGeneration"
    assert not any("lora" in name for name in load_checkpoint(out)[0].state_dict())
    said = capsys.readouterr().out
    assert f"{adapter} merged into {base}" in said and "logits differ by" in said


def test_results_are_written_for_the_hubs_leaderboards_or_named_with_the_reason(base, tmp_path, capsys):
    scores = {"count": 2, "gIoU": 0.5, "cIoU": 0.5, "N-acc": None, "T-acc": 1.0}
    content = {"dataset": "shapes/hard", "split": "test", "protocol": "teacher_forced", "scores": scores}
    (tmp_path / "hard.json").write_text(json.dumps(content))
    (tmp_path / "easy.json").write_text(json.dumps({**content, "dataset": "shapes/easy"}))
    files = ["--results", tmp_path / "hard.json", tmp_path / "easy.json"]
    run("--model", base, "--output", tmp_path / "out", *files, "--hub_datasets", "shapes/hard=me/shapes")
    [entry] = parse_eval_result_entries(yaml.safe_load((tmp_path / "out/.eval_results/hard.yaml").read_text()))
    assert (entry.dataset_id, entry.value) == ("me/shapes", 0.5) and "teacher_forced" in entry.notes
    assert "easy.json: no entry in .eval_results, because no data set of the Hub is known" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out/.eval_results").iterdir()] == ["hard.yaml"]


@pytest.mark.parametrize("text", ["shapes", "=me/shapes", "shapes=me", "shapes=me/sha/pes"])
def test_a_hub_data_set_needs_both_names(base, tmp_path, text):
    with pytest.raises(UsageError, match="--hub_datasets must have the form NAME=ORG/NAME"):
        run("--model", base, "--output", tmp_path / "out", "--hub_datasets", text)


def test_the_given_base_must_be_that_of_the_adapter(base, make_adapter, tmp_path):
    adapter = make_adapter()
    run("--model", base, "--adapter", adapter, "--output", tmp_path / "out")
    assert max(shares(adapter, tmp_path / "out")) < 1e-5
    for part in build_tiny(image_size=32, seed=1):
        part.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="this adapter was trained on"):
        run("--model", tmp_path / "other", "--adapter", adapter, "--output", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_an_adapter_of_a_bf16_base_is_exported_in_bf16(base, tmp_path):
    model, processor = load_checkpoint(base, torch.bfloat16)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "half")
    adapted = add_lora(model, rank=4, base=identify(tmp_path / "half"))
    torch.manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn_like(parameter)
    for part in (adapted, processor):
        part.save_pretrained(tmp_path / "adapter")
    run("--model", tmp_path / "adapter", "--output", tmp_path / "out")
    merged, _ = load_checkpoint(tmp_path / "out")
    exact = {name for name, weight in merged.named_parameters() if weight.dtype != torch.bfloat16}
    assert exact and all("shared_" in name for name in exact)


@pytest.mark.parametrize(("asked", "dtype"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_weights_are_loaded_in_the_given_type(base, tmp_path, asked, dtype):
    args = export.parse(["--model", str(base), "--output", str(tmp_path / "out"), "--dtype", asked])
    model, _ = export.open_source(args)
    assert model.dtype == dtype and not model.training


def test_a_checkpoint_can_be_resharded_without_changing_its_weights(base, tmp_path):
    run("--model", base, "--output", tmp_path / "out", "--max_shard_size", "1MB")
    before, after = load_checkpoint(base)[0].state_dict(), load_checkpoint(tmp_path / "out")[0].state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_shards_of_fsdp2_are_merged(base, tmp_path):
    sharded = tmp_path / "run" / "checkpoint-2"
    model, processor = build_tiny(image_size=32, seed=3)
    dcp.save({"model": model.state_dict()}, checkpoint_id=sharded / "pytorch_model_fsdp_0", no_dist=True)
    with pytest.raises(ValueError, match="--config_from"):
        run("--model", sharded, "--output", tmp_path / "out")
    run("--model", sharded, "--config_from", base, "--output", tmp_path / "out")
    after = load_checkpoint(tmp_path / "out")[0].state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in model.state_dict().items())


def test_shards_with_a_missing_weight_are_an_error(base, tmp_path):
    weights = build_tiny(image_size=32)[0].state_dict()
    del weights["seg_projector.0.weight"]
    dcp.save({"model": weights}, checkpoint_id=tmp_path / "run" / "pytorch_model_fsdp_0", no_dist=True)
    with pytest.raises(ValueError, match=r"1 weight is missing, .*, such as seg_projector\.0\.weight"):
        run("--model", tmp_path / "run", "--config_from", base, "--output", tmp_path / "out")


@pytest.mark.parametrize("damage", ["wrong weights", "no disk"])
def test_a_failed_export_leaves_no_files(make_adapter, tmp_path, monkeypatch, damage):
    def wrong(adapted, dtype):
        model = adapted.merge_and_unload()
        model.seg_projector[2].bias.data += 1
        return model

    def full(*arguments, **options):
        raise OSError("no space left")

    if damage == "wrong weights":
        monkeypatch.setattr(export, "merge_adapter", wrong)
    else:
        monkeypatch.setattr(export, "write_whole", full)
    with pytest.raises((ValueError, OSError), match="gives other outputs than the original|no space left"):
        run("--model", make_adapter(), "--output", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_non_empty_folder_is_not_overwritten(base, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="not empty"):
        run("--model", base, "--output", tmp_path)
    with pytest.raises(UsageError, match="max_shard_size"):
        run("--model", base, "--output", tmp_path / "out", "--max_shard_size", "much")


def test_the_folder_contains_all_files_of_a_repository(published):
    names = {path.name for path in published.iterdir()}
    assert COMPLETE | {"easy.json", "hard.json", "model.safetensors"} == names
    for name in ("handler.py", "requirements.txt"):
        assert (published / name).read_bytes() == (ROOT / "hub" / name).read_bytes()
    config = json.loads((published / "config.json").read_text())
    assert config["custom_pipelines"] == custom_pipelines() and set(config["auto_map"]) >= {"AutoConfig", "AutoModel"}
    assert json.loads((published / "easy.json").read_text()) == json.loads((EXAMPLE / "easy.json").read_text())


def test_the_requirements_match_those_of_the_project(published):
    def lines(path):
        return {line.split("#")[0].strip() for line in path.read_text().splitlines()} - {""}

    wanted, project = lines(published / "requirements.txt"), lines(ROOT / "requirements.txt")
    assert {re.match(r"\w+", line)[0] for line in wanted} == {"torch", "transformers", "numpy", "pillow"}
    # The checkpoint's code runs with older releases of transformers than the programs do
    assert {line for line in wanted if not line.startswith(("torch", "transformers"))} <= project
    tested = dict(line.split("==") for line in lines(ROOT / "constraints.txt"))
    for line in wanted:
        requirement = Requirement(line)
        assert requirement.specifier.contains(tested[requirement.name]), line


def test_the_card_has_metadata_for_the_hub(published):
    card = ModelCard.load(published / "README.md")
    front = yaml.safe_load((published / "README.md").read_text().split("---\n")[1])
    assert front["license"] == "apache-2.0" and "base_model" not in front  # its weights started from random values
    assert (front["pipeline_tag"], front["library_name"]) == ("image-segmentation", "transformers")
    assert front["datasets"] == ["shapes"] and front["metrics"] == ["gIoU", "cIoU", "N-acc", "T-acc"]
    assert "gemma-lisa" in front["tags"] and card.data.model_name == "shapes-tiny"
    for level in ("easy", "hard"):
        scores = json.loads((EXAMPLE / f"{level}.json").read_text())["scores"]
        found = {entry.metric_type: entry for entry in card.data.eval_results if entry.dataset_config == level}
        assert set(found) == {"gIoU", "cIoU", "N-acc", "T-acc"}
        for name, entry in found.items():
            assert entry.metric_value == pytest.approx(scores[name], abs=1e-4) and entry.dataset_split == "test"
    assert len(front["widget"]) == 3
    for example in front["widget"]:
        assert Image.open(published / example["src"]).size == Image.open(SCENE).size
        assert Image.open(published / example["output"]["url"]).width >= Image.open(SCENE).width
        assert example["text"] == example["example_title"] and example["output"]["text"]


def test_the_card_has_the_training_and_the_prohibited_uses(published):
    text = (published / "README.md").read_text()
    stages = json.loads((EXAMPLE / "training.json").read_text())["stages"]
    for stage in stages:
        assert stage["command"] in text and stage["commit"] in text and f"| {stage['steps']:,} |" in text
    for words in (
        "Identifying people",
        "Medical diagnosis",
        "Surveillance",
        "Safety-critical",
        "Gemma Terms of Use",
        "custom code",
    ):
        assert words in text
    assert "{{" not in text and "{%" not in text and "None" not in text
    assert "not their weights" in text


def test_the_examples_are_answers_of_the_model(published):
    examples = json.loads((published / "examples" / "answers.json").read_text())
    assert [example["text"] for example in examples] == list(export.QUESTIONS)
    assert [len(example["masks"]) for example in examples] == [1, 2, 0]
    pipe = ReasoningSegmentationPipeline(*load_checkpoint(published), device="cpu")
    for example in examples:
        answer = pipe(images=SCENE, text=example["text"])
        assert answer["text"] == example["answer"]
        for segment, mask in zip(answer["segments"], example["masks"], strict=True):
            assert (np.asarray(Image.open(published / mask["mask"])) == np.asarray(segment["mask"])).all()


def test_weights_of_gemma_include_its_terms_and_base_models(base, tmp_path):
    model, processor = load_checkpoint(base)
    model.config.base_models = None
    for part in (model, processor):
        part.save_pretrained(tmp_path / "unknown")
    with pytest.raises(UsageError, match="does not name the base models"):
        run("--model", tmp_path / "unknown", "--output", tmp_path / "no", "--push", "org/name", "--dry_run")
    assert not (tmp_path / "no").exists()
    run("--model", tmp_path / "unknown", "--output", tmp_path / "one", "--base_model", "google/gemma-3-4b-it", "a/sam")
    run(
        "--model", tmp_path / "one", "--output", tmp_path / "two", "--datasets", "someone/photos"
    )  # config.json has the base models
    for name in ("one", "two"):
        front = yaml.safe_load((tmp_path / name / "README.md").read_text().split("---\n")[1])
        assert front["license"] == "gemma" and front["base_model"] == ["google/gemma-3-4b-it", "a/sam"]
        assert "ai.google.dev/gemma/terms" in (tmp_path / name / "NOTICE").read_text()
        assert "prohibited_use_policy" in (tmp_path / name / "README.md").read_text()
    assert front["datasets"] == ["someone/photos"]


def test_questions_with_markup_are_escaped_in_the_card(base, tmp_path):
    question = '<script>alert("1")</script> | a `b` {{ c }}'
    Image.new("CMYK", (40, 30)).save(tmp_path / "a.jpg")
    run("--model", base, "--output", tmp_path / "out", "--examples", tmp_path / "a.jpg", question)
    body = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)[2]
    assert "<script>" not in body.split("## Usage")[0] and "{{ c }}" in body
    assert (
        yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---\n")[1])["widget"][0]["text"] == question
    )
    for block in re.findall(r"```python\n(.*?)```", body, re.DOTALL):
        compile(block, "card", "exec")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--examples", SCENE], "give at least one question"),
        (["--examples", SCENE, " "], "give at least one question"),
        (["--examples", "nowhere.png", "a circle"], "does not exist"),
        (["--results", EXAMPLE / "config.json"], "not a results file"),
        (["--results", "nowhere.json"], "this results file does not exist"),
        (["--results", EXAMPLE / "easy.json", EXAMPLE / "easy.json"], "two files have the same name"),
        (["--push", "only-a-name"], "expected org/name"),
        (["--push", "org/na me"], "expected org/name"),
        (["--private"], "--private needs --push ORG/NAME"),
    ],
)
def test_wrong_arguments_are_an_error_before_files_are_written(base, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run("--model", base, "--output", tmp_path / "out", *options)
    assert list(tmp_path.iterdir()) == []


def test_a_results_file_cannot_overwrite_a_file_of_the_model(base, tmp_path):
    (tmp_path / "config.json").write_text((EXAMPLE / "easy.json").read_text())
    with pytest.raises(ValueError, match="would overwrite"):
        run("--model", base, "--output", tmp_path / "out", "--results", tmp_path / "config.json")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


# ---------------------------------------------------------------------------------------------------------------------
# Without this project
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_dry_run_tests_and_lists_the_folder(tmp_path, capsys):
    run("--model", EXAMPLE, "--output", tmp_path / "out", "--push", "org/shapes", "--dry_run")
    said = capsys.readouterr().out
    assert "3 masks with AutoModel, 3 masks with pipeline, 3 masks with handler, all equal" in said
    assert "uploaded:" not in said
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            assert f"{path.stat().st_size:,}  {path.relative_to(tmp_path / 'out').as_posix()}\n" in said
    assert 'model="org/shapes"' in (tmp_path / "out" / "README.md").read_text()
