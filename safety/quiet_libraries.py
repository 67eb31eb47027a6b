"""Silence import messages of libraries that users cannot act on."""

import logging
import warnings

# Logger -> beginnings of its messages. transformers and Accelerate import these libraries wherever they are installed.
MESSAGES = {
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",  # a faster 4-bit product, on a CPU only
    "DeepSpeed": "Setting accelerator to CPU",
    "transformers.utils.import_utils": "requires torchvision (not installed)",  # PIL reads images here
}
WARNINGS = ("`torch.jit.script_method` is deprecated",)


def quiet_libraries() -> None:
    """Filter the messages above. Call it before the libraries are imported; repeated calls are allowed."""
    for name in MESSAGES:
        logger = logging.getLogger(name)
        if _is_wanted not in logger.filters:
            logger.addFilter(_is_wanted)
    for text in WARNINGS:
        warnings.filterwarnings("ignore", message=text)


def _is_wanted(record: logging.LogRecord) -> bool:
    return MESSAGES.get(record.name, "\0") not in str(record.msg)
