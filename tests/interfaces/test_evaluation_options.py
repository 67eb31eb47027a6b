"""The options of eval.py: which exclude each other, and which files they name."""

from pathlib import Path

import pytest

from gemma_lisa.interfaces.evaluation_options import RECORDED, output_files, parse_options, parts_folder
from gemma_lisa.safety.errors import UsageError

MODEL = ["--model", "m"]
FILE = ["--predictions", "p.json"]
OUT = ["--output", "o/r.json"]


def parse(*words):
    return parse_options([*words], "Evaluate.")


def test_defaults_are_those_of_the_help():
    args = parse(*MODEL, "--dataset", "shapes", *OUT)
    assert (args.protocol, args.metric_style, args.batch_size, args.max_new_tokens) == ("generate", "exact", 16, 64)
    [one] = args.sets
    assert (one.name, one.split, one.output, one.is_retained) == ("shapes", "test", Path("o/r.json"), False)
    assert args.base is None and not args.fresh


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*MODEL, *FILE, *OUT], "--model and --predictions exclude each other"),
        (OUT, "give --model, --predictions or --write_questions"),
        (MODEL, "--output is missing"),
        (["--write_questions", "q.jsonl", *OUT], "--output has no effect with --write_questions alone"),
        (["--write_questions", "q.txt"], "--write_questions must be a file name that ends in .jsonl"),
        ([*FILE, *OUT, "--protocol", "generate"], "--protocol has no effect with --predictions"),
        ([*FILE, *OUT, "--batch_size", "16"], "--batch_size has no effect without --model"),
        ([*FILE, *OUT, "--max_new_tokens", "9"], "--max_new_tokens has no effect without --model"),
        (["--write_questions", "q.jsonl", "--report", "r.html"], "--report has no effect with --write_questions alone"),
        (["--write_questions", "q.jsonl", "--pictures", "0"], "--pictures has no effect with --write_questions alone"),
        ([*FILE, *OUT, "--fresh"], "--fresh has no effect without --model"),
        ([*FILE, *OUT, "--base"], "--base has no effect without --model"),
        ([*FILE, *OUT, "--device", "cpu"], "--device has no effect without --model"),
        ([*MODEL, *OUT, "--missing", "zero"], "--missing has no effect without --predictions"),
        ([*MODEL, *OUT, "--retained_dir", "d"], "no effect without --retained"),
        ([*MODEL, *OUT, "--cache_gb", "1"], "--cache_gb has no effect without --cache_features"),
        ([*MODEL, "--output", "r.txt"], "--output must be a file name that ends in .json"),
        ([*MODEL, *OUT, "--report", "r.pdf"], "--report must be a file name that ends in .html"),
    ],
)
def test_options_without_effect_are_refused(words, message):
    with pytest.raises(UsageError, match=message):
        parse("--dataset", "shapes", *words)


@pytest.mark.parametrize("way", [[*FILE, *OUT], ["--write_questions", "q.jsonl"]])
def test_predictions_are_of_one_data_set(way):
    with pytest.raises(UsageError, match="supports one data set, got 2"):
        parse("--dataset", "shapes/easy", "shapes/hard", *way)


def test_several_data_sets_have_a_file_each():
    args = parse(*MODEL, *OUT, "--dataset", "shapes/easy", "refcoco:testA", "refcoco:testB", "--split", "validation")
    assert [(one.name, one.split) for one in args.sets] == [
        *[("shapes/easy", "validation"), ("refcoco", "testA"), ("refcoco", "testB")]
    ]
    names = [one.output.name for one in args.sets]
    assert names == ["r.shapes-easy.json", "r.refcoco-testA.json", "r.refcoco-testB.json"]
    with pytest.raises(UsageError, match="two data sets would write o/r.shapes-easy-test.json"):
        parse(*MODEL, *OUT, "--dataset", "shapes/easy", "shapes/easy")


def test_a_folder_with_a_colon_is_a_name(tmp_path):
    folder = tmp_path / "a:b"
    folder.mkdir()
    args = parse(*MODEL, *OUT, "--dataset", str(folder))
    assert (args.sets[0].name, args.sets[0].split) == (str(folder), "test")


def test_retained_data_sets_have_their_own_options_and_ask_for_the_base_model():
    words = ["--dataset", "folder", "--data_dir", "d", "--split", "validation", "--retained", "shapes/easy"]
    args = parse(*MODEL, *OUT, *words, "--retained_options", '{"image_size": 128}')
    mine, kept = args.sets
    assert args.base == RECORDED
    assert (mine.data_dir, mine.split, mine.options, mine.is_retained) == ("d", "validation", {}, False)
    assert (kept.data_dir, kept.split, kept.options) == (None, "test", {"image_size": 128})
    assert kept.is_retained and [one.output.name for one in args.sets] == ["r.folder.json", "r.shapes-easy.json"]
    assert parse(*MODEL, *OUT, *words, "--base", "b").base == "b"


def test_files_of_a_data_set_are_beside_its_results():
    files = output_files(Path("o/r.x.json"))
    names = ["r.x.json", "r.x.preview.png", "r.x.questions.parquet", "r.x.worst.png"]
    assert sorted(path.name for path in files.values()) == names
    assert parts_folder(Path("o/r.x.json")) == Path("o/r.x.parts")
