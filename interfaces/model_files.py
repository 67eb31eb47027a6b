"""The files that are read from the folder of a model, which must not be overwritten."""

from pathlib import Path

from gemma_lisa.checkpoints.adapter_base import BASE_FILE, is_adapter, read_base
from gemma_lisa.checkpoints.checksums import CHECKSUMS
from gemma_lisa.checkpoints.small_files import CONFIGURATIONS
from gemma_lisa.checkpoints.training_record import TRAINING_RECORD

MODEL_FILES = (
    *CONFIGURATIONS,
    *("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*config.json", "*.jinja", "*.py"),
    *("tokenizer.json", "*.model", "vocab.*", "merges.txt", "adapter_*", "additional_chat_templates/*.jinja"),
    *(BASE_FILE, TRAINING_RECORD, CHECKSUMS),
)


def with_bases(models: list[str]) -> list[str]:
    """Return the folders and names of models, and of the base models of adapters among them."""
    return [*models, *(read_base(model).name for model in models if is_adapter(model))]


def files_of_model(folder: str) -> list[Path]:
    """Return the existing files of a folder that are read when its model is loaded."""
    return [path for pattern in MODEL_FILES for path in Path(folder).glob(pattern) if path.is_file()]
