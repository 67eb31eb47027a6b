"""The web page: put a picture in, ask in words, see the masks as the answer is written, correct them by clicks.

    python app.py
    python app.py --model outputs/demo --port 8080
    python app.py --model google/my-gemma-lisa --host 0.0.0.0

Without --model the small checkpoint of examples/ answers, which knows drawn shapes only. Nothing is loaded from the
web, and nothing that visitors bring is written to disk.
"""

import argparse
from pathlib import Path

from gemma_lisa.checkpoints.loading import load_asked
from gemma_lisa.interfaces.command_line import ArgumentParser, add_model_options, positive, run


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model",
        help="folder or Hub name of a Gemma-LISA checkpoint, or folder of an adapter; by default that of examples/",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at; 0.0.0.0: for other machines too")
    parser.add_argument("--port", type=positive, default=7860)
    parser.add_argument("--share", action="store_true", help="also by a public address, through Gradio's servers")
    add_model_options(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    model, processor = load_asked(args)
    from gemma_lisa.interfaces.web.server import (
        serve,  # Gradio takes seconds to import: not for --help, nor for a wrong option
    )

    name = None if args.model is None else Path(args.model).name
    serve(model, processor, name, host=args.host, port=args.port, share=args.share)


if __name__ == "__main__":
    run(main)
