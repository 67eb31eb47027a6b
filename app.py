"""Serve a web page: open an image, ask a question, see the answer and its masks, correct the masks by clicks.
Images stay in memory and are never written to disk. Stop the server with Ctrl-C.

    python app.py
    python app.py --model outputs/demo --port 8080
    python app.py --model org/gemma-lisa --host 0.0.0.0
"""

import argparse
import errno
import socket
from pathlib import Path

from gemma_lisa.checkpoints.loading import load_asked
from gemma_lisa.interfaces.command_line import ArgumentParser, add_model_options, positive, run
from gemma_lisa.safety.errors import UsageError

LAST_PORT = 65_535


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        description=__doc__,
        usage="python app.py [--model MODEL] [--port PORT] [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(parser)
    server = parser.add_argument_group("server")
    server.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 also serves other machines (default: 127.0.0.1, this machine only)",
    )
    server.add_argument("--port", type=port, default=7860, help="TCP port, 1 to 65535 (default: 7860)")
    server.add_argument(
        "--share", action="store_true", help="also open a public address through Gradio's servers (default: off)"
    )
    return parser.parse_args(arguments)


def port(text: str) -> int:
    """Return the value of an argument that must be a TCP port."""
    number = positive(text)
    if number > LAST_PORT:
        raise argparse.ArgumentTypeError(f"must be a port from 1 to {LAST_PORT}, got {number}")
    return number


def check_address(host: str, port: int) -> None:
    """Check that the server can listen on a port, before the model is loaded.

    Raises:
        UsageError: the port is in use or needs more rights, or the host is not an address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"port {port} is in use; choose another with --port.") from error
        if error.errno == errno.EACCES:
            raise UsageError(f"port {port} needs administrator rights; choose one above 1023 with --port.") from error
        raise UsageError(
            f"--host {host} is not an address of this machine ({error.strerror or error}); use 127.0.0.1 or 0.0.0.0."
        ) from error


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    check_address(args.host, args.port)
    model, processor = load_asked(args)
    from gemma_lisa.interfaces.web.cards import cards_of
    from gemma_lisa.interfaces.web.server import serve  # Gradio takes seconds to import

    name = None if args.model is None else Path(args.model).name
    cards = cards_of(args.model)
    serve(model, processor, name, host=args.host, port=args.port, share=args.share, cards=cards)


if __name__ == "__main__":
    run(main)
