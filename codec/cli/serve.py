"""Serve live streams over websockets, with a page to try them on.

Many clients are coded at once, in batches: samples to codes, codes to samples, or both. `/` is a page that records from
the microphone and plays the decoded speech. Ctrl-C or SIGTERM stops; clients are told. docs/serving.md has the protocol.
"""

from __future__ import annotations

import argparse

from codec.cli.common import add_device, count, load_model
from codec.cli.encode import DEFAULT_MODEL


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", metavar="MODEL", nargs="*",
                        help=f"names or folders; clients choose one (default: {DEFAULT_MODEL})")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=8000, help="0 for any that is free (default: %(default)s)")
    parser.add_argument("--max-streams", type=_at_least(int, 1), default=64, metavar="N",
                        help="at the same time; further clients are refused (default: %(default)s)")
    parser.add_argument("--max-wait", type=_at_least(float, 0), default=10.0, metavar="MS",
                        help="for which a stream waits for others to run with (default: %(default)g)")
    parser.add_argument("--patience", type=_at_least(float, 0.1), default=5.0, metavar="S",
                        help="after which a client that reads too slowly is closed (default: %(default)g)")
    parser.add_argument("--origin", action="append", default=[], metavar="URL",
                        help="of a page elsewhere whose visitors may use this server, as https://example.com; may be "
                             "repeated; * for any (default: only the server's own page, and what is no browser)")
    parser.add_argument("--threads", type=_at_least(int, 1), default=1, metavar="N",
                        help="of the model (default: %(default)s)")
    add_device(parser)


def run(args: argparse.Namespace) -> None:
    try:
        import aiohttp  # noqa: F401
    except ImportError as error:
        raise ValueError(f'serving needs aiohttp ({error}): pip install "neural-codec-toolkit[serve]"') from None
    import asyncio

    import torch

    from codec.serving.server import Server, serve

    torch.set_num_threads(args.threads)
    models = [load_model(name, args.device) for name in args.models or [DEFAULT_MODEL]]
    server = Server(models, args.max_streams, args.max_wait / 1000, args.patience, args.origin)
    names = ", ".join(model.config.name for model in models)

    def started(address: str) -> None:
        print(f"{names} at {address}: up to {count(args.max_streams, 'stream')}; Ctrl-C stops", flush=True)

    asyncio.run(serve(server, args.host, args.port, started))


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to 65535")
    return int(text)


def _at_least(kind: type, least: float):
    def convert(text: str):
        value = kind(text)
        if not least <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be {least:g} or more")
        return value

    convert.__name__ = "number"
    return convert
