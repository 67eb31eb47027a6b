"""The folder of a training run is not an input, and models and pictures of other origin are not overwritten."""

import pytest
from PIL import Image

from gemma_lisa.interfaces.run_folders import check_run_folder
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.whole_files import write_whole


def test_a_training_run_never_writes_into_its_data_or_over_a_model_of_another_origin(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="this folder is an input of the training"):
        check_run_folder(tmp_path / "link", [None, tmp_path])
    folder = tmp_path / "model"
    check_run_folder(folder, [tmp_path])  # does not exist yet
    folder.mkdir()
    for name in ("notes.txt", "ds_config.json"):
        (folder / name).touch()
    check_run_folder(folder, [tmp_path])
    for name in ("model-00001-of-00002.safetensors", "config.json", "adapter_config.json", "pytorch_model.bin"):
        (folder / name).touch()
        with pytest.raises(UsageError, match=f"holds a model that was not saved by a training run .{name}."):
            check_run_folder(folder, [])
        (folder / name).unlink()


STAGES = {"stages": [{"command": "train.py --model a", "settings": {"dataset": "shapes"}}]}


def fill(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {"config.json": {}, "model.safetensors": "weights", **files}.items():
        write_whole(folder / name, content)
    return folder


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"trainer_state.json": {}},  # written by another Trainer
        {"training.json": STAGES},  # a published checkpoint
        {"training.json": {"rate": 1}, "trainer_state.json": {}},
        {"training.json": [], "trainer_state.json": {}},
        {"training_args.bin": "transformers.training_args TrainingArguments"},
    ],
)
@pytest.mark.parametrize("place", [".", "checkpoint-5"])
def test_models_of_other_trainers_and_published_models_are_not_folders_of_a_run(tmp_path, files, place):
    fill(tmp_path / place, **({} if place != "." and "training.json" in files else files))
    with pytest.raises(UsageError, match="holds a model that was not saved by a training run"):
        check_run_folder(tmp_path, [])
    (tmp_path / "checkpoint-9").mkdir()  # an empty folder changes nothing
    with pytest.raises(UsageError, match="holds a model that was not saved by a training run"):
        check_run_folder(tmp_path, [])


@pytest.mark.parametrize(
    "own",
    [
        {"training.json": STAGES, "trainer_state.json": {}},
        {"training.json": {"stages": [{"command": "train.py --model a"}]}, "trainer_state.json": {}},  # an older one
        {"checkpoint-5/training.json": STAGES},
        {
            "training_args.bin": "gemma_lisa.training.training_arguments GemmaLisaTrainingArguments"
        },  # stopped at its start
    ],
)
def test_the_folder_of_a_run_can_be_overwritten_with_all_its_pictures(tmp_path, own):
    Image.new("RGB", (5, 4)).save(tmp_path / "curve.png")  # without the EXIF tag, as in older versions
    check_run_folder(fill(tmp_path, **own), [], draws=True)


def test_a_training_run_never_overwrites_a_picture_of_the_user(tmp_path):
    (tmp_path / "previews").mkdir()
    for name in ("curve.png", "previews/step-000100.png"):
        Image.new("RGB", (5, 4)).save(tmp_path / name)
        check_run_folder(tmp_path, [], draws=False)
        with pytest.raises(UsageError, match=f"{name} was not written by Gemma-LISA and would be overwritten"):
            check_run_folder(tmp_path, [], draws=True)
        write_whole(tmp_path / name, Image.new("RGB", (5, 4)))
        check_run_folder(tmp_path, [], draws=True)
