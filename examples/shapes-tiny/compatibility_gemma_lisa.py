"""What differs between releases of transformers: names of arguments, and outputs that gain fields."""

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
    """Return the first of the names that is among Gemma's arguments; one that it does not know has no effect.

    Raises:
        ImportError: none of them is.
    """
    for name in names:
        if name in arguments:
            return name
    raise cannot_run(lacks=f"the argument {names[0]} of Gemma3Model")


_ARGUMENTS = inspect.signature(Gemma3Model.forward).parameters
# What Gemma calls the keys and values it has read: `cache` since transformers 5.24, and its output has the same name.
CACHE_NAME = known_name(("cache", "past_key_values"), _ARGUMENTS)
known_name(("mm_encoder_outputs",), _ARGUMENTS)  # without it Gemma would answer as if there were no image

# Outputs of Gemma's that ours does not repeat: the states of all tokens, and the image features, which are large.
_NOT_REPEATED = ("last_hidden_state", "image_hidden_states", "image_outputs")


def accept_new_fields(output_class: type[ModelOutput]) -> type[ModelOutput]:
    """Make a dataclass of outputs hold keywords that it does not declare, as a newer transformers may pass them."""
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
    """Return what Gemma returned besides its states: the cache, by its name in this release, and what is new in it."""
    return {name: value for name, value in outputs.items() if name not in _NOT_REPEATED}


def without_tied_copies(state_dict: dict[str, torch.Tensor], tied: dict[str, str]) -> dict[str, torch.Tensor]:
    """Return a state dict without the weights that are tied to another one of it and equal to it.

    Args:
        tied: names of tied weights, to the names of what they are tied to.
    """

    def is_copy(name: str) -> bool:
        return tied.get(name) in state_dict and torch.equal(state_dict[name], state_dict[tied[name]])

    return {name: weight for name, weight in state_dict.items() if not is_copy(name)}


def warn_of_unknown(caller: str, keywords: Iterable[str]) -> None:
    """Warn once of keywords that have no effect. They are no error: a newer transformers may pass some of its own."""
    if keywords := sorted(keywords):
        _logger.warning_once(f"{caller} ignores {', '.join(keywords)}, which it does not know.")


def one_of(**given: Any) -> Any:
    """Return the one of two arguments that is given, or None.

    Raises:
        ValueError: both are given.
    """
    (first, one), (second, other) = given.items()
    if one is not None and other is not None:
        raise ValueError(f"{first} and {second} are two names of one argument; pass one of them.")
    return other if one is None else one
