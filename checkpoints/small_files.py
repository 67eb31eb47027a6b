"""Open a checkpoint's configurations, tokenizer and chat template, with errors that name the file.

transformers names no file in its errors, ignores a damaged generation_config.json, and compiles a chat template only
when it is used.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer

from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor

TOKENIZER, TEMPLATE = "tokenizer.json", "chat_template.jinja"
CONFIGURATIONS = (
    *("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.json"),
    *("model.safetensors.index.json", "adapter_config.json"),
)


def check_json_files(folder: Path) -> None:
    """Check that the configurations of a folder are JSON objects.

    Raises:
        ValueError: the first file that is not, and why.
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
    """Return the processor of a folder or a name on the Hub, whose chat template works.

    Raises:
        ValueError: the file that is damaged.
    """
    try:
        processor = GemmaLisaProcessor.from_pretrained(path, revision=revision, trust_remote_code=False)
    except Exception as error:  # tokenizers raises plain Exception, the image processors many kinds
        _check_files_of_processor(Path(path))
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: its tokenizer and processor files cannot be read ({reason}).") from error
    try:
        turn = {"role": "user", "content": [{"type": "text", "text": "the red circle"}]}
        prompt = processor.tokenizer.apply_chat_template(
            [turn], chat_template=processor.chat_template, tokenize=False, add_generation_prompt=True
        )
        if "the red circle" not in prompt:
            raise ValueError("it leaves the question out")
    except Exception as error:  # jinja2's, or whatever the template raises
        raise _damaged(Path(path) / TEMPLATE, error) from error
    return processor


def _check_files_of_processor(folder: Path) -> None:
    if not folder.is_dir():
        return
    for name in (TOKENIZER, "tokenizer_config.json", "processor_config.json"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name}: the file is missing; copy the checkpoint again.")
    for path, opens in ((folder / TOKENIZER, Tokenizer.from_file), (folder / TEMPLATE, _read_text)):
        try:
            if path.exists():
                opens(str(path))
        except Exception as error:
            raise _damaged(path, error) from error


def _read_text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def _damaged(path: Path, error: BaseException) -> ValueError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ValueError(f"{path}: the file is damaged ({reason}); copy it again.")
