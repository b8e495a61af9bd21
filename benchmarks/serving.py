"""How many live streams one thread serves, and how late: clients that speak in real time, in pieces of a frame.

    python benchmarks/serving.py [--model NAME_OR_DIR] [--streams 8,16,32,64] [--seconds 5] [--direction both] [--socket] [--core N]

Without --socket, streams are those of `codec.serving.Batcher` in this process: one thread runs the model, another the loop. With
it, they are websockets of a server that runs in this process, and clients run in another one. Latency is from the moment at which
the last sample of a frame is sent until what the frame has become is received. A stream is live when 99 % of its frames come
within `--limit` ms. docs/serving.md has figures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import time

import numpy as np
import torch

import codec
from codec.serving import Batcher


async def speak(index: int, rate: int, frame: int, seconds: float, send, stamps: list[float]) -> None:
    """Noise in real time, a frame at once; streams begin at other moments of a frame."""
    wav = 0.1 * np.random.default_rng(index).standard_normal(frame).astype(np.float32)
    start = time.perf_counter() + frame / rate * (1 + (index * 0.618) % 1)
    for number in range(round(seconds * rate / frame)):
        await asyncio.sleep(start + number * frame / rate - time.perf_counter())
        stamps.append(start + number * frame / rate)
        await send(wav)


async def in_process(model: codec.Codec, streams: int, seconds: float, direction: str, wait: float) -> list[list[float]]:
    async with Batcher(model, streams, wait) as batcher:
        async def client(index: int) -> list[float]:
            with batcher.open(direction) as stream:
                stamps: list[float] = []
                talking = asyncio.create_task(
                    speak(index, model.sample_rate, model.frame_size, seconds, stream.send, stamps))
                late = []
                while len(late) < round(seconds * model.sample_rate / model.frame_size):
                    output = await stream.receive()
                    late += [time.perf_counter() - stamps[len(late) + i] for i in range(output.codes.shape[1])]
                await talking
                return late

        return await asyncio.gather(*map(client, range(streams)))


async def over_sockets(address: str, streams: int, seconds: float, direction: str, rate: int, frame: int) -> list[list[float]]:
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        async def client(index: int) -> list[float]:
            async with session.ws_connect(f"{address}/stream") as ws:
                await ws.send_json({"type": "hello", "direction": direction})
                await ws.receive_json()
                stamps: list[float] = []

                async def send(wav: np.ndarray) -> None:
                    await ws.send_bytes(b"\1\0\0\0" + np.rint(32767 * wav.clip(-1, 1)).astype("<i2").tobytes())

                talking = asyncio.create_task(speak(index, rate, frame, seconds, send, stamps))
                late = []
                while len(late) < round(seconds * rate / frame):
                    message = await ws.receive_bytes()
                    if message[0] == 2:
                        late += [time.perf_counter() - stamps[len(late) + i] for i in range(message[2] + 256 * message[3])]
                await talking
                return late

        return await asyncio.gather(*map(client, range(streams)))


def clients(core: int | None, results, *arguments) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        results.put(asyncio.run(over_sockets(*arguments)))
    except Exception as error:  # the parent waits for an answer
        results.put(repr(error))


async def with_server(
    model: codec.Codec, streams: int, seconds: float, direction: str, wait: float, core: int | None
) -> list[list[float]]:
    from aiohttp import web

    from codec.serving.server import Server

    runner = web.AppRunner(Server([model], streams, wait).app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    process = context.Process(
        target=clients, args=(core, results, address, streams, seconds, direction, model.sample_rate, model.frame_size))
    process.start()
    try:
        answer = await asyncio.to_thread(results.get)
    finally:
        process.join()
        with contextlib.suppress(asyncio.CancelledError):
            await runner.cleanup()
    if isinstance(answer, str):
        raise SystemExit(f"the clients failed: {answer}")
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="speech-16k")
    parser.add_argument("--streams", default="8,16,32,64", help="numbers of streams to try")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--direction", choices=("encode", "both"), default="both")
    parser.add_argument("--socket", action="store_true", help="through the websocket server")
    parser.add_argument("--core", type=int, help="for the clients of --socket; the server's is chosen with taskset")
    parser.add_argument("--max-wait", type=float, default=10.0, help="ms, of the batcher (default: %(default)g)")
    parser.add_argument("--limit", type=float, default=40.0, help="ms for 99 %% of frames (default: %(default)g)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = codec.load(args.model)
    print(f"{model.config.name}, {args.direction}, {'websockets' if args.socket else 'in process'}, {args.seconds:g} s each")
    print("streams   p50 ms   p99 ms   CPU s/s   live")
    for streams in map(int, args.streams.split(",")):
        before = time.process_time()
        work = with_server(model, streams, args.seconds, args.direction, args.max_wait / 1000, args.core) if args.socket else \
            in_process(model, streams, args.seconds, args.direction, args.max_wait / 1000)
        late = 1000 * np.array(asyncio.run(work))[:, 10:]  # (streams, frames) in ms; the first ones warm up
        used = (time.process_time() - before) / args.seconds
        live = int((np.percentile(late, 99, axis=1) <= args.limit).sum())
        print(f"{streams:7} {np.median(late):8.1f} {np.percentile(late, 99):8.1f} {used:9.2f}   {live}", flush=True)


if __name__ == "__main__":
    main()
