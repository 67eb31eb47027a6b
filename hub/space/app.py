"""Serve the web page as a Hugging Face Space. The page itself is `gemma_lisa.interfaces.web`.

Variables of the Space:
    MODEL: name of a model on the Hub (default: the small example checkpoint, which knows only drawn shapes).
    IN_4BIT: 1 to quantize the language model to 4 bits, which needs a GPU.
"""

import os

from gemma_lisa.checkpoints.devices import choose_device
from gemma_lisa.checkpoints.loading import EXAMPLE, load_checkpoint
from gemma_lisa.interfaces.web.server import serve

EVERY_NETWORK, SPACES_PORT = "0.0.0.0", 7860


def model_name() -> str | None:
    """Return the value of MODEL, or None if it is not set.

    Raises:
        ValueError: MODEL is set but blank.
    """
    name = os.environ.get("MODEL")
    if name is not None and not name.strip():
        raise ValueError("The variable MODEL is empty. Expected a name on the Hub. Set it, or delete the variable.")
    return name and name.strip()


if __name__ == "__main__":
    path = model_name()
    is_4bit = os.environ.get("IN_4BIT") == "1"
    model, processor = load_checkpoint(path or EXAMPLE, load_in_4bit=is_4bit, device=choose_device(None))
    serve(model, processor, path and path.split("/")[-1], host=EVERY_NETWORK, port=SPACES_PORT)
