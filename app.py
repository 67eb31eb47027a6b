"""The web page: put a picture in, ask in words, see the masks as the answer is written, correct them by clicks.

    python app.py
    python app.py --model outputs/demo --port 8080
    python app.py --model google/my-gemma-lisa --host 0.0.0.0

Without --model the small checkpoint of examples/ answers, which knows drawn shapes only. Nothing is loaded from the
web, and nothing that visitors bring is written to disk for longer than it takes to read it.
"""

import argparse
import sys

from gemma_lisa.checkpoint import EXAMPLE
from gemma_lisa.command_line import ArgumentParser, add_model_options, choose_device, positive, run


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
    if args.model is None:
        print(f"model: {EXAMPLE}, which knows drawn shapes only; --model names another", file=sys.stderr)
    from gemma_lisa.web.server import serve  # Gradio takes seconds to import: not for --help, nor for a wrong option

    serve(
        args.model,
        host=args.host,
        port=args.port,
        share=args.share,
        adapter=args.adapter,
        load_in_4bit=args.load_in_4bit,
        load_in_8bit=args.load_in_8bit,
        device=choose_device(args.device),
    )


if __name__ == "__main__":
    run(main)
