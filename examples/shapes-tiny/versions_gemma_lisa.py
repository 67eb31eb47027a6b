"""Check the release of transformers. This happens on import, before other imports that could fail."""

import re
from importlib import import_module

import transformers
from transformers.utils import logging

# The lowest and the highest release that was tested. `make test-versions` runs the tests with both.
LOWEST, HIGHEST = "5.18.0", "5.24.0"

# Names that the `_gemma_lisa` files import from transformers, by module.
NEEDED = {
    "transformers": (
        "BatchFeature",
        "DynamicCache",
        "Gemma3Config",
        "Gemma3ForConditionalGeneration",
        "Gemma3Model",
        "Gemma3Processor",
        "GenerationConfig",
        "Pipeline",
        "PreTrainedConfig",
        "SamConfig",
        "SamModel",
    ),
    "transformers.cache_utils": ("Cache",),
    "transformers.modeling_outputs": (
        "BaseModelOutputWithPast",
        "BaseModelOutputWithPooling",
        "CausalLMOutputWithPast",
    ),
    "transformers.models.sam": ("modeling_sam",),  # missing classes are replaced by stock layers
    "transformers.models.gemma3.image_processing_pil_gemma3": ("Gemma3ImageProcessorPil",),
    "transformers.models.sam.image_processing_pil_sam": ("SamImageProcessorPil",),
    "transformers.utils": ("ModelOutput", "is_accelerate_available"),
    "transformers.utils.chat_template_utils": ("render_jinja_template",),
}

# One logger for all copies of this file, so that the warning appears once per process.
_logger = logging.get_logger("transformers.gemma_lisa")


def check_transformers(version: str) -> None:
    """Warn once if a release of transformers is newer than the tested ones.

    Raises:
        ImportError: the release is older than the lowest tested one, or it lacks a required name.
    """
    if _numbers(version) < _numbers(LOWEST):
        raise cannot_run(version)
    if _numbers(version) > _numbers(HIGHEST):
        if missing := missing_names():
            raise cannot_run(version, missing[0])
        _logger.warning_once(
            f"transformers {version} is newer than the releases that Gemma-LISA was tested with ({LOWEST} to "
            f"{HIGHEST}), so if something fails, run `pip install transformers=={HIGHEST}`."
        )


def cannot_run(version: str = transformers.__version__, lacks: str | None = None) -> ImportError:
    """Return the error for a release that is not supported, as one sentence."""
    reason = "" if lacks is None else f" because it lacks {lacks}"
    return ImportError(
        f"transformers {version} cannot run Gemma-LISA{reason}, which was tested with transformers {LOWEST} to "
        f"{HIGHEST}: run `pip install transformers=={HIGHEST}`."
    )


def missing_names() -> list[str]:
    """Return the names of `NEEDED` that the installed release does not have."""
    return [f"{module}.{name}" for module, names in NEEDED.items() for name in names if not _can_import(module, name)]


def _can_import(module: str, name: str) -> bool:
    try:
        getattr(import_module(module), name)
    except (ImportError, AttributeError):
        return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    """Return `"5.24.0.dev0"` as (5, 24, 0)."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


check_transformers(transformers.__version__)
