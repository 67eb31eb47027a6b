"""The model card shows what is known about a checkpoint and what is not."""

import pytest

from gemma_lisa.checkpoints.model_card import Facts, card, eval_results, front_matter, read_results

RESULT = {"dataset": "shapes/easy", "split": "test", "protocol": "generate", "commit": "abc", "date": "2026-01-01"}
RESULT |= {"scores": {"gIoU": 0.51239, "cIoU": 0.5, "N-acc": 1.0, "T-acc": None, "count": 1200}}
EXAMPLE = {"image": "examples/1.png", "text": "a | b", "answer": "Here.", "raw_text": "[SEG]", "picture": "a.png"}


def test_the_license_is_that_of_gemma_unless_no_weights_are_from_gemma():
    assert Facts("org/name").license == Facts("org/name", base_models=["google/gemma-3-4b-it"]).license == "gemma"
    assert Facts("org/name", base_models=[]).license == "apache-2.0"
    assert Facts("org/name", "mit", base_models=[]).license == "mit"


def test_the_metadata_lists_training_and_evaluation_data_sets():
    facts = Facts("org/name", results={"results.json": RESULT}, examples=[EXAMPLE], datasets=["coco", "shapes"])
    front = front_matter(facts).to_dict()
    assert front["datasets"] == ["coco", "shapes"] and front["metrics"] == ["gIoU", "cIoU", "N-acc", "T-acc"]
    assert front["widget"][0]["output"] == {"text": "Here.", "url": "a.png"}
    bare = front_matter(Facts("org/name", base_models=["google/gemma-3-4b-it"])).to_dict()
    assert not {"datasets", "metrics", "widget"} & set(bare) and bare["base_model"] == ["google/gemma-3-4b-it"]


def test_missing_scores_have_no_entry_in_the_index():
    entries = {entry.metric_type: entry for entry in eval_results(RESULT)}
    assert set(entries) == {"gIoU", "cIoU", "N-acc"} and entries["gIoU"].metric_value == 0.5124
    assert {(entry.dataset_type, entry.dataset_config) for entry in entries.values()} == {("shapes", "easy")}


def test_the_card_has_a_row_for_each_result_stage_and_example():
    stage = {"command": "train.py --seed 1", "steps": 1200, "seconds": 120, "date": "2026-01-01T10:00:00"}
    stages = [{**stage, "global_batch_size": 160}, {}]
    text = card(Facts("org/name", stages=stages, results={"results.json": RESULT}, examples=[EXAMPLE]))
    assert "0.512" in text and "| 1,200 | 160 |" in text and "train.py --seed 1" in text
    assert "a &#124; b" in text and 'model="org/name"' in text


def test_the_card_of_an_adapter_names_its_base_and_how_it_is_made():
    base = {"base": "../../outputs/base", "made_by": "make my-base"}
    facts = Facts("examples/mine", base_models=["google/gemma-3-270m"], examples=[EXAMPLE], **base, base_note="A note.")
    text = card(facts)
    assert "`../../outputs/base`" in text and "make my-base" in text and "A note." in text
    assert 'predict.py --model examples/mine --image examples/mine/examples/1.png --query "a | b"' in text
    assert "trust_remote_code=True" not in text and "handler.py" not in text
    front = front_matter(facts).to_dict()
    assert (front["library_name"], front["base_model_relation"]) == ("peft", "adapter") and "lora" in front["tags"]
    whole = front_matter(Facts("org/name")).to_dict()
    assert whole["library_name"] == "transformers" and "base_model_relation" not in whole


@pytest.mark.parametrize("content", ["[]", "{}", "not JSON", '{"dataset": "a", "split": "b", "protocol": "c"}'])
def test_a_file_that_is_not_a_results_file_is_an_error(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"results.json: not a results file of eval.py"):
        read_results(tmp_path / "results.json")


@pytest.mark.parametrize(
    ("stages", "record", "leak"),
    [
        ([], "There is no record of its training", None),
        (None, "could not be looked up", "is not known"),
        ([{"command": "train.py"}], "| 1 |", None),
        ([{"command": "train.py", "allow_leakage": None}], "| 1 |", "is not known"),
        ([{"command": "train.py", "allow_leakage": None}, {"allow_leakage": True}], "| 2 |", "were allowed"),
    ],
)
def test_the_card_shows_what_is_unknown_about_the_training(stages, record, leak):
    result = {"dataset": "shapes/easy", "split": "test", "protocol": "generate", "commit": "abc", "date": "2026-01-01"}
    result |= {"scores": {"gIoU": 0.5, "cIoU": 0.5, "N-acc": 1.0, "T-acc": 1.0, "count": 2}}
    text = card(Facts("org/name", stages=stages, results={"results.json": result}))
    records = ("There is no record of its training", "could not be looked up", "| stage | steps |")
    assert record in text and sum(words in text for words in records) == 1
    assert [words for words in ("is not known", "were allowed") if words in text] == ([] if leak is None else [leak])
