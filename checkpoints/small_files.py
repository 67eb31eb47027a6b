"""Load a checkpoint's configurations, tokenizer and chat template, with errors that name the damaged file.

transformers does not name the file in its errors and ignores a damaged generation_config.json. It compiles the
chat template only when it is used.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer

from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor
from gemma_lisa.safety.short_text import reason_of

TOKENIZER, TEMPLATE = "tokenizer.json", "chat_template.jinja"
CONFIGURATIONS = (
    *("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.json"),
    *("model.safetensors.index.json", "adapter_config.json"),
)


def check_json_files(folder: Path) -> None:
    """Check that the configuration files of a folder are JSON objects.

    Raises:
        ValueError: a file is not. The message names the first one.
    """
    for path in (folder / name for name in CONFIGURATIONS):
        if not path.exists():
            continue
        try:
            if not isinstance(json.loads(path.read_bytes()), dict):
                raise ValueError("it is not a JSON object")
        except (OSError, ValueError, RecursionError) as error:
            raise _damaged(path, error) from error


def open_processor(path: str | Path, revision: str | None = None) -> GemmaLisaProcessor:
    """Return the processor of a folder or Hub name, after a test of its chat template.

    Raises:
        ValueError: a file is damaged. The message names it.
    """
    try:
        processor = GemmaLisaProcessor.from_pretrained(path, revision=revision, trust_remote_code=False)
    except Exception as error:  # tokenizers raises plain Exception, the image processors many classes
        _check_files_of_processor(Path(path))
        raise ValueError(f"{path}: its tokenizer or processor files cannot be read ({reason_of(error)}).") from error
    try:
        turn = {"role": "user", "content": [{"type": "text", "text": "the red circle"}]}
        prompt = processor.tokenizer.apply_chat_template(
            [turn], chat_template=processor.chat_template, tokenize=False, add_generation_prompt=True
        )
        if "the red circle" not in prompt:
            raise ValueError("its output does not contain the question")
    except Exception as error:  # of jinja2, or raised by the template itself
        raise _damaged(Path(path) / TEMPLATE, error) from error
    return processor


def _check_files_of_processor(folder: Path) -> None:
    if not folder.is_dir():
        return
    for name in (TOKENIZER, "tokenizer_config.json", "processor_config.json"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name}: the file is missing. Copy the checkpoint again.")
    for path, opens in ((folder / TOKENIZER, Tokenizer.from_file), (folder / TEMPLATE, _read_text)):
        try:
            if path.exists():
                opens(str(path))
        except Exception as error:
            raise _damaged(path, error) from error


def _read_text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def _damaged(path: Path, error: BaseException) -> ValueError:
    return ValueError(f"{path}: the file is damaged ({reason_of(error)}). Copy it again.")
