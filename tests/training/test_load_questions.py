"""The questions that a run trains and is evaluated on, by its arguments."""

import json

import pytest

from gemma_lisa.training.arguments import parse
from gemma_lisa.training.load_questions import evaluation_questions, find_held_out, load_questions

SIZES = json.dumps({"image_size": 32, "train_rows": 6, "validation_rows": 3, "test_rows": 1})


@pytest.fixture
def read(tmp_path, own_cache):
    """Parses a command line on small scenes; gives the arguments of the data and of the training."""

    def call(*arguments):
        arguments = ["--model", "some", "--output_dir", str(tmp_path), "--use_cpu", "true", *arguments]
        return parse([*arguments, *([] if "--mixture" in arguments else ["--dataset_options", SIZES])])[1:]

    return call


def test_the_order_and_words_of_the_data_follow_their_own_seed(read):
    seeds = []
    for arguments in (["--seed", "5"], ["--seed", "5", "--data_seed", "3"]):
        seeds.append(load_questions(*read(*arguments), None)[0].seed)
    assert seeds == [5, 3]


def test_only_the_first_rows_are_evaluated_where_that_is_asked_for(read):
    data_args, _ = read("--eval_strategy", "epoch", "--eval_rows", "1")
    assert len(evaluation_questions(data_args).rows) == 1
    data_args.eval_rows = 100
    assert len(evaluation_questions(data_args).rows) == 3


def test_a_mixture_has_the_length_of_its_epoch(read):
    sets = {"shapes": json.loads(SIZES)}
    mixture = json.dumps({"all": {"weight": 1.0, "sets": sets}})
    train, evaluated = load_questions(
        *read("--mixture", mixture, "--epoch_length", "7", "--eval_dataset", "shapes"), None
    )
    assert len(train) == 7 and len(evaluated.rows) == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "cannot be read as JSON"), ("[]", "is no table of languages"), (None, "cannot be read")],
)
def test_translations_that_cannot_be_read_are_named(read, tmp_path, content, words):
    path = tmp_path / "words.json"
    if content is not None:
        path.write_text(content)
    languages = ["--languages", '{"en": 1, "ja": 1}']
    with pytest.raises(ValueError, match=f"translations: {path} {words}"):
        load_questions(*read(*languages, "--translations", str(path)), None)


def test_without_a_known_split_no_photo_is_held_out_and_with_leakage_allowed_none_is_looked_for(read, tmp_path):
    assert find_held_out(read("--data_dir", str(tmp_path))[0]) == {}
    assert find_held_out(read("--allow_leakage", "true")[0]) is None
