"""The control whose language model knows nothing: the same values in other places."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from gemma_lisa.benchmarks.shuffled_weights import LANGUAGE_MODEL, write_shuffled
from gemma_lisa.checkpoints.checksums import check_checksums
from gemma_lisa.checkpoints.loading import EXAMPLE, load_checkpoint


def test_matrices_of_the_language_model_keep_their_values_and_lose_their_order(tmp_path):
    write_shuffled(EXAMPLE, tmp_path / "shuffled")
    before, after = (load_file(folder / "model.safetensors") for folder in (EXAMPLE, tmp_path / "shuffled"))
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    matrices = {name for name in before if name.startswith(LANGUAGE_MODEL) and before[name].ndim == 2}
    assert moved == matrices and f"{LANGUAGE_MODEL}embed_tokens.weight" in matrices
    for name in matrices:
        assert after[name].shape == before[name].shape
        assert torch.equal(after[name].flatten().sort().values, before[name].flatten().sort().values), name
    assert before[next(iter(matrices))].dtype == after[next(iter(matrices))].dtype


def test_a_seed_gives_the_same_folder_that_can_be_loaded(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_shuffled(EXAMPLE, tmp_path / name, seed)
    first, again, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert first == again != other
    check_checksums(tmp_path / "a")
    model, _ = load_checkpoint(tmp_path / "a")
    assert model.num_parameters() == load_checkpoint(EXAMPLE)[0].num_parameters()


def test_a_folder_without_a_language_model_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "start").mkdir()
    save_file({"sam.weight": torch.zeros(2, 2)}, tmp_path / "start" / "model.safetensors")
    with pytest.raises(ValueError, match=r"start: no weights named model\.language_model\."):
        write_shuffled(tmp_path / "start", tmp_path / "shuffled")
    assert [path.name for path in tmp_path.iterdir()] == ["start"]
