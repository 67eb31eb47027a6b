"""export_adapter.py writes a small folder without the base model, whose answers are those of the trained adapter."""

import json
import os
import shutil

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from gemma_lisa.checkpoints.adapter_base import fingerprint, identify
from gemma_lisa.checkpoints.checksums import check_checksums
from gemma_lisa.checkpoints.loading import EXAMPLE, load_checkpoint
from gemma_lisa.checkpoints.lora import add_lora
from gemma_lisa.interfaces.web.cards import cards_of
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.scripts import export_adapter

RECORD = {"stages": [{"command": "train.py --lora_rank 2 --output_dir /home/alice/run", "steps": 3}]}
TRAINED = ("seg_projector.*", "sam.mask_decoder.*")
WRITTEN = {
    *("adapter_config.json", "adapter_model.safetensors", "base.json", "SHA256SUMS", "training.json"),
    *("README.md", "NOTICE", "examples"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of a base model and of an adapter of it, with small changes of all trained weights."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(EXAMPLE, folder / "base")
    model, processor = load_checkpoint(folder / "base")
    torch.manual_seed(0)
    model = add_lora(model, rank=2, trainable=TRAINED, base=identify(folder / "base"))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.001 * torch.randn_like(parameter)
    for part in (model, processor):
        part.save_pretrained(folder / "adapter")
    (folder / "adapter" / "training.json").write_text(json.dumps(RECORD))
    return folder


def run(*arguments):
    export_adapter.main(list(map(str, arguments)))


def test_the_folder_is_complete_and_works_from_another_place(trained, tmp_path, capsys, monkeypatch):
    terms = tmp_path / "TERMS.html"
    terms.write_text("<body><script>a</script><p>The terms</p></body>")
    out = trained / "distributed"
    options = ("--made_by", "make base", "--terms", terms, "--base_model", "google/gemma-3-270m")
    run("--model", trained / "adapter", "--output", out, *options)
    assert {path.name for path in out.iterdir()} == WRITTEN | {"TERMS.txt"}
    assert (out / "TERMS.txt").read_text() == "The terms\n"
    assert "3 equal answers" in capsys.readouterr().out
    base = json.loads((out / "base.json").read_text())
    assert base == {
        "name": "../base",
        "revision": None,
        "fingerprint": fingerprint(trained / "base"),
        "made_by": "make base",
    }
    weights, original = (load_file(folder / "adapter_model.safetensors") for folder in (out, trained / "adapter"))
    assert weights.keys() == original.keys() and {weight.dtype for weight in weights.values()} == {torch.float16}
    assert all(torch.equal(weight.half(), weights[name]) for name, weight in original.items())
    check_checksums(out)
    texts = "".join(path.read_text() for path in out.rglob("*") if path.suffix in (".json", ".md"))
    assert str(trained) not in texts and "alice" not in texts

    card = ModelCard.load(out / "README.md")
    front = card.data.to_dict()
    assert (front["license"], front["base_model"], front["library_name"]) == ("gemma", ["google/gemma-3-270m"], "peft")
    assert "make base" in card.text and "`../base`" in card.text and "trust_remote_code=True" not in card.text
    notice = (out / "NOTICE").read_text()
    assert notice.startswith("Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/")
    assert [card.question for card in cards_of(out)] == list(export_adapter.QUESTIONS)

    expected = load_checkpoint(out)[0].state_dict()
    moved = tmp_path / "elsewhere"
    for name in ("base", "distributed"):
        shutil.copytree(trained / name, moved / name)
    monkeypatch.chdir(moved)
    found = load_checkpoint("distributed")[0].state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_another_build_of_the_base_is_recorded_if_the_answers_are_equal(trained, tmp_path, capsys):
    rebuilt = tmp_path / "rebuilt"
    model, processor = load_checkpoint(trained / "base")
    with torch.no_grad():
        model.seg_projector[2].bias += 1  # the adapter replaces it
    for part in (model, processor):
        part.save_pretrained(rebuilt)
    out = tmp_path / "out"
    run("--model", trained / "base", "--adapter", trained / "adapter", "--base", rebuilt, "--output", out)
    base = json.loads((out / "base.json").read_text())
    assert (base["name"], base["fingerprint"]) == ("../rebuilt", fingerprint(rebuilt)) and "made_by" not in base
    assert "another build of this base model" in (out / "README.md").read_text()
    assert "another build of this base model" in capsys.readouterr().out
    load_checkpoint(out)

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("sam.vision_encoder."):
                weight.zero_()
    model.save_pretrained(rebuilt)
    with pytest.raises(ValueError, match="The written adapter answers .*check --base"):
        run("--model", trained / "adapter", "--base", rebuilt, "--output", tmp_path / "none")
    assert not (tmp_path / "none").exists() and not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_a_mask_or_a_text_that_differs_is_an_error():
    mask = torch.zeros(1, 10, 10, dtype=torch.bool)
    mask[0, :5] = True
    other = mask.clone()
    answer = {"question": "a", "raw_text": "It is [SEG].", "masks": mask}
    assert export_adapter.compare_answers([answer], [answer]) == (
        "1 equal answer, masks differ in at most 0.00% of the pixels"
    )
    other[0, 5, :2] = True
    with pytest.raises(
        ValueError, match="a mask that differs from the original in 2.0% of the pixels; expected at most 0.5%"
    ):
        export_adapter.compare_answers([answer], [answer | {"masks": other}])
    with pytest.raises(ValueError, match="answers 'a' with 'no', the original with 'It is"):
        export_adapter.compare_answers([answer], [answer | {"raw_text": "no"}])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--made_by", "make\nbase"], "--made_by must be one line"),
        (["--made_by", "x" * 121], "--made_by must be one line of at most 120 characters"),
        (["--terms", "none.html"], "--terms none.html: this file does not exist"),
        (["--examples", "a.png"], "give at least one question"),
        (["--model", str(EXAMPLE)], "not an adapter, because it has no adapter_config.json"),
    ],
)
def test_wrong_options_are_refused_before_a_model_is_loaded(trained, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        run("--model", trained / "adapter", "--output", tmp_path / "out", *options)


def test_a_file_of_terms_does_not_overwrite_a_file_of_the_adapter(trained, tmp_path):
    terms = tmp_path / "base.json"
    terms.write_text("{}")
    with pytest.raises(ValueError, match="base.json: a file of terms with this name would overwrite another file"):
        run("--model", trained / "adapter", "--output", tmp_path / "out", "--terms", terms)
    assert not (tmp_path / "out").exists()


def test_a_weight_that_is_too_large_for_the_type_is_an_error(trained, tmp_path):
    shutil.copytree(trained / "adapter", tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(path)
    name = max(weights)
    save_file({**weights, name: weights[name] + 1e6}, path)
    base = identify(trained / "base")
    for dtype in (torch.bfloat16, torch.float32):
        export_adapter.write_adapter(tmp_path / "adapter", tmp_path, base, dtype)
    with pytest.raises(ValueError, match=f"{name} is not finite in this type. Use --dtype bfloat16 or float32"):
        export_adapter.write_adapter(tmp_path / "adapter", tmp_path, base, torch.float16)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"<body></body>"])
def test_terms_that_are_not_text_are_an_error(trained, tmp_path, content):
    (tmp_path / "TERMS.html").write_bytes(content)
    with pytest.raises(ValueError, match=r"--terms .*TERMS.html: cannot be read \(.*\)"):
        run("--model", trained / "adapter", "--output", tmp_path / "out", "--terms", tmp_path / "TERMS.html")
