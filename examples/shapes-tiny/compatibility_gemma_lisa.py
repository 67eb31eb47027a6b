"""Differences between releases of transformers: names of arguments, and new fields of outputs."""

import functools
import inspect
from collections.abc import Collection, Iterable
from dataclasses import fields
from typing import Any

import torch
from transformers import Gemma3Model
from transformers.utils import ModelOutput, logging

from .versions_gemma_lisa import cannot_run

_logger = logging.get_logger("transformers.gemma_lisa")


def known_name(names: tuple[str, ...], arguments: Collection[str]) -> str:
    """Return the first of the names that Gemma accepts as an argument.

    Gemma silently ignores arguments that it does not know, so a wrong name would have no effect.

    Raises:
        ImportError: Gemma accepts none of the names.
    """
    for name in names:
        if name in arguments:
            return name
    raise cannot_run(lacks=f"the argument {names[0]} of Gemma3Model")


_ARGUMENTS = inspect.signature(Gemma3Model.forward).parameters
# Gemma's name for the KV cache, in arguments and outputs: `cache` since transformers 5.24.
CACHE_NAME = known_name(("cache", "past_key_values"), _ARGUMENTS)
known_name(("mm_encoder_outputs",), _ARGUMENTS)  # without it, Gemma would silently ignore the image

# Outputs of Gemma that are not returned: the states of all tokens, and the image features, which are large.
_NOT_REPEATED = ("last_hidden_state", "image_hidden_states", "image_outputs")


def accept_new_fields(output_class: type[ModelOutput]) -> type[ModelOutput]:
    """Let an output dataclass accept fields that it does not declare, which a newer transformers can pass."""
    declared = {field.name for field in fields(output_class)}
    initialize = output_class.__init__

    @functools.wraps(initialize)
    def __init__(self, *args, **kwargs):
        initialize(self, *args, **{name: value for name, value in kwargs.items() if name in declared})
        for name, value in kwargs.items():
            if name in declared:
                continue
            if value is None:
                setattr(self, name, None)
            else:
                self[name] = value

    output_class.__init__ = __init__
    return output_class


def repeated_outputs(outputs: ModelOutput) -> dict[str, Any]:
    """Return the outputs of Gemma that are passed through: the KV cache, and fields of newer releases."""
    return {name: value for name, value in outputs.items() if name not in _NOT_REPEATED}


def without_tied_copies(state_dict: dict[str, torch.Tensor], tied: dict[str, str]) -> dict[str, torch.Tensor]:
    """Return the state dict without tied weights that are equal to the weight they are tied to.

    Args:
        tied: for the name of each tied weight, the name of the weight that it is tied to.
    """

    def is_copy(name: str) -> bool:
        return tied.get(name) in state_dict and torch.equal(state_dict[name], state_dict[tied[name]])

    return {name: weight for name, weight in state_dict.items() if not is_copy(name)}


def warn_of_unknown(caller: str, keywords: Iterable[str]) -> None:
    """Warn once about unknown keywords. They are not an error, because a newer transformers can pass its own."""
    if keywords := sorted(keywords):
        _logger.warning_once(f"{caller} ignores unknown arguments: {', '.join(keywords)}.")


def one_of(**given: Any) -> Any:
    """Return the value of two alternative arguments: the one that is not None, or None.

    Raises:
        ValueError: both are given.
    """
    (first, one), (second, other) = given.items()
    if one is not None and other is not None:
        raise ValueError(f"{first} and {second} are two names of the same argument. Pass only one of them.")
    return other if one is None else one
