"""The recipe of LISA's mixture with small data sets: shares, held-out photos, and runs of all groups."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from gemma_lisa import train
from gemma_lisa.datasets_builder import __main__ as program
from gemma_lisa.datasets_builder.leakage import held_out_images
from gemma_lisa.datasets_builder.mixture import load_mixture, load_training_rows
from gemma_lisa.datasets_builder.questions import MixtureQuestions
from gemma_lisa.datasets_builder.rows import encode_mask
from gemma_lisa.scripts.init_tiny import build_tiny
from gemma_lisa.training.arguments import DataArguments
from gemma_lisa.training.load_questions import find_held_out
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments

ROOT = Path(train.__file__).parent
SIZE = (40, 60)  # (height, width)
IN_TRAIN, IN_VAL = 9, 25  # COCO image ids


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path.name))).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def label_map(path, top, bottom):
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.full(SIZE, bottom, dtype=np.uint8)
    labels[: SIZE[0] // 2] = top
    Image.fromarray(labels).save(path)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2) if path.suffix == ".p" else json.dumps(content).encode())


BOX = [[5, 5, 30, 5, 30, 30, 5, 30]]
RLE = encode_mask(np.eye(*SIZE, dtype=bool))


def coco(images, names, segmentation, folder=""):
    """Return a COCO file with one annotation of each category in each image."""
    files = [{"id": n, "file_name": f"{folder}{name}", "height": SIZE[0], "width": SIZE[1]} for n, name in images]
    return {
        "images": files,
        "categories": [{"id": at, "name": name} for at, name in enumerate(names, start=1)],
        "annotations": [
            {
                "id": 10 * number + at,
                "image_id": number,
                "category_id": at,
                "iscrowd": 0,
                "area": 9,
                "bbox": [0, 0, 3, 3],
                "segmentation": segmentation,
                "obj_ann_id": 10 * number + at,
            }
            for number, _ in images
            for at in range(1, len(names) + 1)
        ],
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return a data folder with all sets of the recipe. Photo 25 is in val of RefCOCO and in train of all others."""
    root = tmp_path_factory.mktemp("data")
    for number in (1, 2):
        photo(root / f"ade20k/images/training/ADE_train_{number:08d}.jpg")
        label_map(root / f"ade20k/annotations/training/ADE_train_{number:08d}.png", 1, 3)
    for number in (IN_TRAIN, IN_VAL):
        photo(root / f"coco/train2017/{number:012d}.jpg")
        photo(root / f"refer_seg/images/mscoco/images/train2014/COCO_train2014_{number:012d}.jpg")
        label_map(root / f"cocostuff/train2017/{number:012d}.png", 0, 123)
    photo(root / "mapillary/training/images/street.jpg")
    label_map(root / "mapillary/training/v2.0/labels/street.png", 0, 1)
    write(root / "mapillary/config_v2.0.json", {"labels": [{"readable": name} for name in ("Bird", "Curb")]})

    images = [(number, f"{number:012d}.jpg") for number in (IN_TRAIN, IN_VAL)]
    paco = coco(images, ["mug_(cup)", "mug_(cup):handle"], RLE, "train2017/")
    for image in paco["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    write(root / "vlpart/paco/annotations/paco_lvis_v1_train.json", paco)
    write(root / "vlpart/pascal_part/train.json", coco([(1, "2008_000002.jpg")], ["dog:tail"], RLE))
    photo(root / "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages/2008_000002.jpg")

    for name, splits in (("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd")):
        files = coco([(number, f"COCO_train2014_{number:012d}.jpg") for number in (IN_TRAIN, IN_VAL)], ["dog"], BOX)
        write(root / f"refer_seg/{name}/instances.json", files)
        held = "val" if name == "refcoco" else "train"
        refs = [
            {
                "ref_id": number,
                "ann_id": 10 * number + 1,
                "image_id": number,
                "category_id": 1,
                "split": split,
                "sentences": [{"sent": "left dog"}],
            }
            for number, split in ((IN_TRAIN, "train"), (IN_VAL, held))
        ]
        write(root / f"refer_seg/{name}/refs({splits}).p", refs)
    photo(root / "refer_seg/images/saiapr_tc-12/7.jpg")
    write(root / "refer_seg/refclef/instances.json", coco([(7, "7.jpg")], ["hill"], [RLE]))
    sentence = {"ref_id": 7, "ann_id": 71, "image_id": 7, "category_id": 1, "split": "train"}
    write(root / "refer_seg/refclef/refs(unc).p", [{**sentence, "sentences": [{"sent": "hill"}]}])

    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A dog."}]
    records = [{"id": f"{n:012d}", "image": f"{n:012d}.jpg", "conversations": turns} for n in (IN_TRAIN, IN_VAL)]
    write(root / "llava_dataset/llava_instruct_150k.json", records)
    for split in ("train", "val"):
        photo(root / f"reason_seg/ReasonSeg/{split}/1_o.jpg")
        shape = {
            "label": "target",
            "labels": ["target"],
            "shape_type": "polygon",
            "points": [[4, 4], [30, 4], [30, 30]],
        }
        content = {"text": ["What barks?"], "is_sentence": True, "shapes": [{**shape, "image_name": "1_o.jpg"}]}
        write(root / f"reason_seg/ReasonSeg/{split}/1_o.json", content)
    write(root / "reason_seg/ReasonSeg/explanatory/train.json", [])
    return root


@pytest.fixture
def recipe():
    return yaml.safe_load((ROOT / "configs/lisa_mix.yaml").read_text())


def test_groups_have_the_shares_of_the_paper_and_sets_of_a_group_have_equal_shares(root, recipe, own_cache):
    parts = load_mixture(recipe["mixture"], "train", str(root), {})
    groups = {name: group["sets"] for name, group in recipe["mixture"].items()}
    shares = {name: sum(part.share for part in parts if part.name in sets) for name, sets in groups.items()}
    assert shares == pytest.approx({"semantic": 9, "referring": 3, "vqa": 3, "reasoning": 1})
    for sets in groups.values():
        assert len({round(part.share, 9) for part in parts if part.name in sets}) == 1
    questions = MixtureQuestions(parts, 0, recipe["max_questions"], 320)
    sources = [questions[at]["source"].split("/")[0] for at in range(320)]
    assert sources.count("reason_seg") == 20 and sources.count("ade20k") == 36


def test_with_by_size_shares_are_proportional_to_the_numbers_of_rows(root, own_cache):
    groups = {"both": {"weight": 3, "sets": ["ade20k", "mapillary"], "by_size": True}}
    assert [part.share for part in load_mixture(groups, "train", str(root), {})] == [2.0, 1.0]


@pytest.mark.parametrize("name", ["coco_stuff", "paco_lvis", "refcoco_plus", "refcocog", "llava_instruct"])
def test_photo_of_a_validation_split_is_skipped_in_all_training_sets(root, own_cache, caplog, name):
    held_out = held_out_images(root)
    assert held_out == {IN_VAL: "refcoco/unc/validation"}
    rows = load_training_rows(name, "train", str(root), None, held_out)
    assert len(rows) == 1 and f"{IN_TRAIN:012d}" in rows[0]["image"]["path"]
    assert f"{name}: skipped 1 of 2 rows" in caplog.text
    assert len(load_training_rows(name, "train", str(root), None, None)) == 2


def test_coco_photos_without_known_evaluation_splits_give_a_warning(root, own_cache, caplog):
    load_training_rows("ade20k", "train", str(root), None, {})
    assert "no refs of a referring data set" not in caplog.text
    load_training_rows("coco_stuff", "train", str(root), None, {})
    assert "coco_stuff: contains COCO photos, but no refs of a referring data set were found" in caplog.text


@pytest.mark.parametrize(
    ("groups", "word"),
    [
        ({"a": {"sets": ["ade20k"]}}, "group a must have the keys weight and sets"),
        ({"a": {"weight": 1, "sets": ["ade20k"], "bysize": True}}, "bysize"),
        ({"a": {"weight": 0, "sets": ["ade20k"]}}, "weight of group a must be a number above 0, got 0"),
        ({"a": {"weight": 1, "sets": []}}, "must list at least one data set"),
        ({"a": {"weight": 1, "sets": "ade20k"}}, "must list at least one data set"),
        ({"a": {"weight": 1, "sets": ["ade20k", "ade20k"]}}, "ade20k of group a is listed twice"),
        ({"a": {"weight": 1, "sets": ["ade2k"]}}, "'ade2k'"),
        ({"a": {"weight": 1, "sets": {"ade20k": "x"}}}, "options of ade20k in group a must be a mapping .* got 'x'"),
        ({"a": {"weight": 1, "sets": {"ade20k": 5}}}, "options of ade20k in group a must be a mapping .* got 5"),
        ({"a": {"weight": 1, "sets": [["ade20k"]]}}, "must list at least one data set"),
        ({"a": {"weight": 1, "sets": [None]}}, "must list at least one data set"),
        (
            {"a": {"weight": 1, "sets": ["ade20k"]}, "b": {"weight": 1, "sets": ["ade20k"]}},
            "ade20k of group b is listed twice",
        ),
    ],
)
def test_invalid_groups_are_refused_with_their_name(root, own_cache, groups, word):
    with pytest.raises(ValueError, match=word):
        load_mixture(groups, "train", str(root), {})


def test_held_out_photos_are_read_from_the_data_folders_of_the_sets(root):
    groups = {"a": {"weight": 1, "sets": {"coco_stuff": {"data_dir": str(root)}}}}
    # Photos of ReasonSeg's evaluation splits are held out of the data sets that share its names
    shared = {f"{name}/1_o": "reason_seg/validation" for name in ("reason_seg_r", "reason_seg_x")}
    assert find_held_out(DataArguments(mixture=groups)) == {IN_VAL: "refcoco/unc/validation", **shared}
    assert find_held_out(DataArguments(mixture=groups, allow_leakage=True)) is None
    assert find_held_out(DataArguments(dataset="shapes")) == {}


@pytest.fixture
def broken(root, tmp_path):
    """Return the data folder with an empty photo in the training split of ReasonSeg."""
    shutil.copytree(root, tmp_path / "broken")
    found = next((tmp_path / "broken/reason_seg/ReasonSeg/train").glob("*.jpg"))
    shutil.copy(found, found.with_name("another.jpg"))
    shutil.copy(found.with_suffix(".json"), found.with_name("another.json"))
    found.write_bytes(b"")
    return tmp_path / "broken"


@pytest.mark.parametrize("own", [True, False], ids=["by the set's options", "by max_bad"])
def test_options_of_a_set_also_apply_to_its_evaluation(broken, tmp_path, own_cache, own):
    options = {"data_dir": str(broken), **({"max_bad": 1} if own else {})}
    groups = {"a": {"weight": 1, "sets": {"reason_seg": options, "shapes": {"train_rows": 2}}}}
    names = {"mixture": groups, "epoch_length": 8, "eval_dataset": "reason_seg", "eval_rows": 1}
    data_args = DataArguments(**names, max_bad=None if own else 1)
    args = GemmaLisaTrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True)
    asked, questions = train.load_questions(data_args, args, {})
    assert [len(part.rows) for part in asked.parts] == [1, 2] and len(questions) == 1
    with pytest.raises(ValueError, match="0 bytes|empty|cannot"):
        train.load_questions(DataArguments(**{**names, "mixture": strict(groups)}), args, {})


def strict(groups):
    """Return the groups without max_bad."""
    sets = {
        name: {key: value for key, value in options.items() if key != "max_bad"}
        for name, options in groups["a"]["sets"].items()
    }
    return {"a": {**groups["a"], "sets": sets}}


@pytest.fixture
def call(tmp_path):
    """Return a function that runs a program in a separate process and returns its output."""

    def run(*command):
        environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, *map(str, command)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout + done.stderr

    return run


@pytest.fixture
def evaluate(root, tmp_path, call):
    """Return a function that evaluates the trained model on ReasonSeg and returns the results."""

    def run():
        place = ["--dataset", "reason_seg", "--data_dir", root, "--split", "validation", "--max_new_tokens", "4"]
        call("eval.py", "--model", tmp_path / "out", *place, "--output", tmp_path / "r.json")
        return json.loads((tmp_path / "r.json").read_text())

    return run


def write_tiny(folder):
    for part in build_tiny(image_size=32):
        part.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("leaks", [False, True])
def test_recipe_runs_with_all_groups_and_prints_the_shares(root, tmp_path, call, evaluate, leaks):
    small = [
        "--epoch_length",
        "48",
        "--num_train_epochs",
        "1",
        "--global_batch_size",
        "8",
        "--logging_steps",
        "2",
    ]
    small += ["--dataloader_num_workers", "0", "--use_cpu", "true", "--bf16", "false", "--preview_samples", "1"]
    small += ["--save_strategy", "no", "--languages", '{"en": 1, "ja": 1}']
    model = write_tiny(tmp_path / "tiny")
    place = ["--data_dir", root, "--model", model, "--output_dir", tmp_path / "out"]
    output = call(
        "train.py", "--config", "configs/lisa_mix.yaml", *place, *small, "--allow_leakage", str(leaks).lower()
    )
    for name in ("ade20k", "coco_stuff", "mapillary", "paco_lvis", "pascal_part"):
        assert f"{name:24s}" in output
    assert f"{'reason_seg':24s}   6.2%, 3 samples of 1 row" in output
    assert ("skipped 1 of 2 rows" in output) == (not leaks)
    [stage] = json.loads((tmp_path / "out" / "training.json").read_text())["stages"]
    assert stage["allow_leakage"] == leaks and any("reason_seg" in line for line in stage["data"])
    losses = [entry for entry in stage["history"] if "loss" in entry]
    assert losses and all(np.isfinite(entry["loss"]) for entry in losses)

    assert evaluate()["leakage"] == {"allow_leakage": leaks, "held_out": [] if leaks else ["reason_seg", "refcoco/unc"]}


@pytest.mark.slow
@pytest.mark.parametrize("leaks", [False, True])
def test_streamed_sets_skip_the_same_photos_and_results_record_it(root, tmp_path, own_cache, call, evaluate, leaks):
    names = {"coco_stuff": 1, "refcocog": 3}
    for name in names:
        place = ["--data_dir", str(root), "--output", str(tmp_path / name)]
        program.main(["prepare", name, *place, "--shards", "2"])
    groups = {name: {"weight": weight, "sets": [str(tmp_path / name)]} for name, weight in names.items()}
    recipe = {
        "mixture": groups,
        "streaming": True,
        "eval_dataset": "reason_seg",
        "max_steps": 3,
        "save_steps": 2,
        "logging_steps": 1,
        "per_device_train_batch_size": 2,
        "dataloader_num_workers": 2 if leaks else 0,
        "preview_samples": 0,
        "use_cpu": True,
        "allow_leakage": leaks,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    place = ["--data_dir", root, "--model", write_tiny(tmp_path / "tiny"), "--output_dir", tmp_path / "out"]
    command = ["train.py", "--config", tmp_path / "recipe.yaml", *place]
    output = call(*command)
    assert f"mixture, streamed to {'2 readers' if leaks else '1 reader'}:" in output
    assert f"{tmp_path / 'refcocog'}  75.0%, of {'2 rows' if leaks else '1 row'} in 2 shards" in output
    for name in names:
        assert (f"{tmp_path / name}: skipped 1 of 2 rows" in output) != leaks
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    call(*command, "--resume_from_checkpoint", tmp_path / "out" / "checkpoint-2")
    again = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    losses = [[entry["loss"] for entry in log if "loss" in entry] for log in (history, again)]
    assert len(losses[0]) == 3 and losses[0] == losses[1]
    assert evaluate()["leakage"] == {"allow_leakage": leaks, "held_out": [] if leaks else ["reason_seg", "refcoco/unc"]}
