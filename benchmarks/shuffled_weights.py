"""Make the control of an experiment: a checkpoint whose language model has lost what it learned from text.

The elements of each weight matrix of the language model, including its embedding, are permuted within the matrix. So
sizes, the distribution of the values and their norms stay the same, but no knowledge is left. Vectors, such as the
weights of RMSNorm, stay as they are. So do the vision encoder, SAM and the projectors.
"""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from gemma_lisa.checkpoints.checksums import check_checksums, write_checksums
from gemma_lisa.training.atomic_saves import whole_folder

LANGUAGE_MODEL = "model.language_model."


def shuffle(weights: dict[str, torch.Tensor], generator: torch.Generator) -> None:
    """Permute the elements of the language model's matrices in place, in the order of their names.

    Args:
        weights: weights by name.
        generator: draws the permutations.
    """
    for name in sorted(weights):
        if name.startswith(LANGUAGE_MODEL) and weights[name].ndim == 2:
            values = weights[name].flatten()
            order = torch.randperm(len(values), generator=generator)
            weights[name] = values[order].view_as(weights[name])


def write_shuffled(start: Path, output: Path, seed: int = 0) -> None:
    """Write a copy of a checkpoint with the weights of `shuffle`.

    Args:
        start: folder of a Gemma-LISA with safetensors files.
        output: folder to write, which must not exist.
        seed: seed of the permutations.

    Raises:
        ValueError: start has no weights of a language model, or they differ from their checksums.
        WriteError: the folder cannot be written.
    """
    check_checksums(start)
    files = sorted(path.name for path in start.glob("*.safetensors"))
    generator, shuffled = torch.Generator().manual_seed(seed), 0
    with whole_folder(output) as temporary:
        shutil.copytree(start, temporary, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
        for name in files:
            weights = load_file(start / name)
            shuffle(weights, generator)
            shuffled += sum(key.startswith(LANGUAGE_MODEL) for key in weights)
            save_file(weights, temporary / name, metadata={"format": "pt"})
        if not shuffled:
            raise ValueError(
                f"{start}: no weights named {LANGUAGE_MODEL}* in its .safetensors files, nothing to shuffle."
            )
        write_checksums(temporary)
