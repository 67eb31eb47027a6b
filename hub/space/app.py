"""The web page as a Hugging Face Space: which model, and where to. All else is `gemma_lisa.web`.

The Space's variables: MODEL, a name on the Hub (by default the small checkpoint of examples/, which knows drawn shapes
only); IN_4BIT=1 to quantise the language model, on a GPU.
"""

import os

from gemma_lisa.command_line import choose_device
from gemma_lisa.web.server import serve

EVERY_NETWORK, SPACES_PORT = "0.0.0.0", 7860

if __name__ == "__main__":
    serve(
        os.environ.get("MODEL") or None,
        host=EVERY_NETWORK,
        port=SPACES_PORT,
        load_in_4bit=os.environ.get("IN_4BIT") == "1",
        device=choose_device(None),
    )
