"""The questions for training and evaluation, by the arguments."""

import json

import pytest

from gemma_lisa.training.arguments import parse
from gemma_lisa.training.load_questions import evaluation_questions, find_held_out, load_questions

SIZES = json.dumps({"image_size": 32, "train_rows": 6, "validation_rows": 3, "test_rows": 1})


@pytest.fixture
def read(tmp_path, own_cache):
    """Parses a command line on small scenes; returns the data and training arguments."""

    def call(*arguments):
        arguments = ["--model", "some", "--output_dir", str(tmp_path), "--use_cpu", "true", *arguments]
        return parse([*arguments, *([] if "--mixture" in arguments else ["--dataset_options", SIZES])])[1:]

    return call


def test_data_seed_decides_order_and_wording_of_the_data(read):
    seeds = []
    for arguments in (["--seed", "5"], ["--seed", "5", "--data_seed", "3"]):
        seeds.append(load_questions(*read(*arguments), None)[0].seed)
    assert seeds == [5, 3]


def test_eval_rows_limits_the_evaluation_to_the_first_rows(read):
    data_args, _ = read("--eval_strategy", "epoch", "--eval_rows", "1")
    assert len(evaluation_questions(data_args).rows) == 1
    data_args.eval_rows = 100
    assert len(evaluation_questions(data_args).rows) == 3


def test_a_mixture_has_epoch_length_samples(read):
    sets = {"shapes": json.loads(SIZES)}
    mixture = json.dumps({"all": {"weight": 1.0, "sets": sets}})
    train, evaluated = load_questions(
        *read("--mixture", mixture, "--epoch_length", "7", "--eval_dataset", "shapes"), None
    )
    assert len(train) == 7 and len(evaluated.rows) == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "cannot be read as JSON"), ("[]", "must contain a JSON object of languages"), (None, "cannot be read")],
)
def test_unreadable_translations_are_named(read, tmp_path, content, words):
    path = tmp_path / "words.json"
    if content is not None:
        path.write_text(content)
    languages = ["--languages", '{"en": 1, "ja": 1}']
    with pytest.raises(ValueError, match=f"translations: {path} {words}"):
        load_questions(*read(*languages, "--translations", str(path)), None)


def test_no_photos_are_held_out_without_a_known_split_or_with_allow_leakage(read, tmp_path):
    assert find_held_out(read("--data_dir", str(tmp_path))[0]) == {}
    assert find_held_out(read("--allow_leakage", "true")[0]) is None
