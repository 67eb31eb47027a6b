"""Fingerprint of an image encoder: its weights, its configuration, its precision, and how images are prepared.

Features of different fingerprints are never mixed.
"""

import hashlib
import io
import json
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import nn

from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor

LENGTH = 16  # hexadecimal digits
# Keys of configurations that do not change the features: names, and how results are returned
NEUTRAL = {
    *("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "output_attentions"),
    *("output_hidden_states", "return_dict", "_attn_implementation", "attn_implementation"),
}
# (height, width) in pixels of the photo that is prepared: larger than the inputs of the encoders
PROBE_SIZE = (1500, 2200)
SIDEWAYS = 6  # EXIF orientation


def fingerprint(modules: dict[str, nn.Module], config: dict[str, Any], autocast: bool, preparation: str) -> str:
    """Return LENGTH hexadecimal digits that change with anything that changes the features.

    Args:
        modules: modules of the encoder by name.
        config: configuration of the encoder, as `to_dict` returns it.
        autocast: whether the encoder runs in bf16 with weights in fp32.
        preparation: result of `preparation_of`.
    """
    digest = hashlib.sha256()
    kept = {name: value for name, value in config.items() if name not in NEUTRAL}
    digest.update(_as_json({"config": kept, "autocast": autocast, "preparation": preparation}))
    for module_name, module in modules.items():
        for name, tensor in module.state_dict().items():
            digest.update(f"{module_name}.{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:LENGTH]


def preparation_of(processor: GemmaLisaProcessor) -> dict[str, str]:
    """Return digests of how images become `pixel_values` and `sam_pixel_values`.

    They contain the settings of both image processors and the pixels of two prepared images. So they change with the
    code that opens and resizes images, such as its EXIF handling, and with Pillow.
    """
    images = processor.encode_images(_probes(), as_bytes=True)
    settings = {"pixel_values": processor.image_processor, "sam_pixel_values": processor.sam_image_processor}
    digests = {}
    for name, image_processor in settings.items():
        digest = hashlib.sha256(_as_json(image_processor.to_dict()))
        digest.update(images[name].numpy())
        digests[name] = digest.hexdigest()
    return digests


def _probes() -> list[bytes]:
    """Return a large photo that is stored sideways, and a small transparent picture."""
    height, width = PROBE_SIZE
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / (7 + band) + columns / (11 + 3 * band)) for band in range(3)]
    photo, exif = Image.fromarray((np.stack(waves, axis=-1) * 120 + 128).astype(np.uint8)), Image.Exif()
    exif[ExifTags.Base.Orientation] = SIDEWAYS
    alpha = (rows[:37, :61] * 5 + columns[:37, :61]).astype(np.uint8)
    return [
        _file_of(photo, "JPEG", exif=exif, quality=90),
        _file_of(Image.fromarray(np.stack([alpha, alpha.T.reshape(alpha.shape), alpha, alpha], axis=-1)), "PNG"),
    ]


def _file_of(image: Image.Image, image_format: str, **options: Any) -> bytes:
    with io.BytesIO() as file:
        image.save(file, image_format, **options)
        return file.getvalue()


def _as_json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode()
