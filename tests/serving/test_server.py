"""The websocket server: what clients get, and what becomes of those that do not keep to the rules."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket

import numpy as np
import pytest
import torch
from stream_models import noise, streamed

aiohttp = pytest.importorskip("aiohttp")
from clients import hello, rest, samples, serving  # noqa: E402

from codec.serving.origin import allowed  # noqa: E402
from codec.serving.protocol import ProtocolError, Wire, parse_hello  # noqa: E402
from codec.serving.server import MAX_MESSAGE  # noqa: E402


def rounded(samples_: int, seed: int = 0) -> np.ndarray:
    """Noise in steps of 16 bits."""
    return np.rint(noise(samples_, seed=seed).clip(-0.9, 0.9).numpy() * 32768) / np.float32(32768)


async def coded(site, codec, wav: np.ndarray, seed: int = 0, format: str = "s16le", **fields):
    chance, dtype = random.Random(seed), "<i2" if format == "s16le" else "<f4"
    async with site.connect() as ws:
        ready = await hello(ws, format=format, **fields)

        async def feed() -> None:
            at = 0
            while at < len(wav):
                size = chance.choice((0, 1, 160, 161, chance.randint(1, 1500)))
                await ws.send_bytes(samples(wav[at : at + size], dtype))
                at += size
                if chance.random() < 0.3:
                    await asyncio.sleep(0.002 * chance.random())
            await ws.send_json({"type": "end"})

        feeding = asyncio.create_task(feed())
        result = await rest(ws, codec, format)
        await feeding
    return ready, *result


def test_many_clients_each_get_the_codes_of_their_own_audio(tiny_model):
    wavs = [rounded(3000 + 37 * index, index) for index in range(24)]

    async def main():
        async with serving(tiny_model) as site:
            return await asyncio.gather(*(
                coded(site, tiny_model, wav, index, ("s16le", "f32le")[index % 2], direction=("both", "encode")[index % 3 // 2],
                      codebooks=1 + index % 4) for index, wav in enumerate(wavs)))

    for index, (wav, (ready, codes, wavs_, last, code)) in enumerate(zip(wavs, asyncio.run(main()))):
        tokens = tiny_model.encode(wav, num_codebooks=1 + index % 4)
        assert np.array_equal(np.concatenate(codes, 1), tokens.codes[0])
        assert ready["codebooks"] == 1 + index % 4 and ready["codebook_sizes"] == [32] * 4 and ready["latency"] == tiny_model.latency
        assert code == 1000 and last["type"] == "done"
        assert (last["frames"], last["samples_in"]) == (tokens.codes.shape[2], len(wav))
        if ready["direction"] == "both":
            heard = np.concatenate(wavs_)
            expected = tiny_model.decode(tokens)[0, 0].numpy()
            assert len(heard) == len(wav) == last["samples_out"]  # as many as went in
            np.testing.assert_allclose(heard, expected.clip(-1, 1), rtol=0, atol=1e-5 if ready["format"] == "f32le" else 4e-5)


@pytest.mark.parametrize("name", ["speech", "grouped"])
def test_tokens_travel_back_and_forth(name):
    model, wav = streamed(name), rounded(5000)
    tokens = model.encode(wav)

    async def main():
        async with serving(model) as site:
            _, codes, *_ = await coded(site, model, wav, direction="encode")
            async with site.connect() as ws:
                await hello(ws, direction="decode", format="f32le")
                for part in codes:
                    await ws.send_bytes(Wire(model, "s16le").tokens(part))
                await ws.send_json({"type": "end"})
                return codes, *await rest(ws, model, "f32le")

    sent, codes, wavs, last, code = asyncio.run(main())
    assert np.array_equal(np.concatenate(sent, 1), tokens.codes[0]) and codes == []
    expected = model.decode_frames(tokens.codes)[0, 0].numpy()
    np.testing.assert_allclose(np.concatenate(wavs), expected, rtol=0, atol=1e-5)
    assert (last["frames"], last["samples_out"], code) == (tokens.codes.shape[2], len(expected), 1000)


def test_tokens_are_packed_as_documented(tiny_model):
    """5 bits a code, the highest first, frame by frame."""
    codes = np.array([[1, 2], [31, 0]])
    message = Wire(tiny_model, "s16le").tokens(codes)
    assert message == bytes([2, 2, 2, 0]) + int("00001" "11111" "00010" "00000" "0000", 2).to_bytes(3, "big")
    assert np.array_equal(Wire(tiny_model, "s16le").unpack(message, True), codes)


def test_the_page_and_what_is_served(tiny_model, tiny_seanet):
    async def main():
        async with serving(tiny_model, tiny_seanet, max_streams=3) as site:
            async with site.get("/") as answer:
                page = await answer.text()
                assert answer.content_type == "text/html" and "http://" not in page.replace("http://www.w3.org/2000/svg", "")
                assert "https://" not in page  # nothing from elsewhere
            async with site.connect() as ws:
                assert (await hello(ws))["model"] == "tiny"
                async with site.get("/info") as answer:
                    info = await answer.json()
            assert [one["model"] for one in info["models"]] == ["tiny", "tiny-seanet"]
            assert (info["streams"], info["max_streams"]) == (1, 3)
            for model in (tiny_model, tiny_seanet):
                wav = rounded(1234)
                _, codes, *_ = await coded(site, model, wav, model=model.config.name)
                assert np.array_equal(np.concatenate(codes, 1), model.encode(wav).codes[0])

    asyncio.run(main())


BAD = {
    "garbage": ("hello: {", "a text message must be an object of JSON"),
    "nested": ("[" * 100_000, "a text message must be an object of JSON"),
    "list": ("[1]", "a text message must be an object of JSON"),
    "type": ("{}", "the first message is"),
    "field": ('{"type": "hello", "speed": 2}', "'speed' is unknown"),
    "model": ('{"type": "hello", "model": "x"}', "model 'x' is not served here: there is tiny"),
    "model-type": ('{"type": "hello", "model": 3}', "model must be a text"),
    "direction": ('{"type": "hello", "direction": "up"}', "there is encode, decode, both"),
    "format": ('{"type": "hello", "format": "mp3"}', "there is s16le, f32le"),
    "codebooks": ('{"type": "hello", "codebooks": 5}', "5 codebooks"),
    "codebooks-type": ('{"type": "hello", "codebooks": true}', "codebooks must be a number"),
    "binary": (b"\1\0\0\0", "a binary message before the hello"),
}


@pytest.fixture(scope="module")
def refused(tiny_model):
    """What has become of each of the BAD."""

    async def one(site, first):
        async with site.connect() as ws:
            await (ws.send_bytes(first) if isinstance(first, bytes) else ws.send_str(first))
            return (await rest(ws, tiny_model))[2:]

    async def main():
        async with serving(tiny_model) as site:
            results = {name: await one(site, first) for name, (first, _) in BAD.items()}
            await site.until(0)
            return results

    return asyncio.run(main())


@pytest.mark.parametrize("name", BAD)
def test_a_bad_hello_is_told_why(refused, name):
    last, code = refused[name]
    assert last["type"] == "error" and BAD[name][1] in last["reason"] and "\n" not in last["reason"] and code == 1002


@pytest.mark.parametrize("message, reason", [
    (b"\1\0\0", "its header alone has 4"),
    (b"\1\0\0\0abc", "3 bytes of samples: a sample has 2"),
    (b"\1\1\0\0ab", "the header of samples"),
    (b"\2\1\1\0a", "takes kind 1"),
    (b"\7\0\0\0ab", "kind 7"),
    ("{}", "a text message after the hello"),
    ('{"type": "codebooks", "codebooks": 9}', "9 codebooks"),
    ('{"type": "codebooks", "codebooks": []}', "a text message after the hello"),
])
def test_a_bad_message_is_told_why(tiny_model, message, reason):
    async def main():
        async with serving(tiny_model) as site, site.connect() as ws:
            await hello(ws)
            await (ws.send_bytes(message) if isinstance(message, bytes) else ws.send_str(message))
            _, _, last, code = await rest(ws, tiny_model)
            assert last["type"] == "error" and reason in last["reason"] and code == 1002
            await site.until(0)

    asyncio.run(main())


def test_bad_tokens_and_samples_are_told_why(tiny_model):
    wire = Wire(tiny_model, "f32le")
    for message, reason in [
        (b"\2\5\1\0abc", "tokens of 5 codebooks"), (b"\2\0\1\0", "tokens of 0 codebooks"),
        (b"\2\4\1\0ab", "1 frames of 4 codebooks in 2 bytes: they take 3"), (b"\2\4\xff\xffab", "they take"),
    ]:
        with pytest.raises(ProtocolError, match=reason):
            wire.unpack(message, True)
    assert wire.unpack(b"", True).shape == (4, 0) and wire.unpack(b"", False).shape == (0,)
    with pytest.raises(ProtocolError):
        parse_hello(json.dumps({"type": "hello", "codebooks": 1.5}))

    async def main():
        async with serving(tiny_model) as site, site.connect() as ws:
            await hello(ws, format="f32le")
            await ws.send_bytes(samples(np.array([0.0, np.nan]), "<f4"))
            _, _, last, code = await rest(ws, tiny_model)
            assert "NaN" in last["reason"] and code == 1002

    asyncio.run(main())


def test_empty_messages_and_empty_streams(tiny_model):
    async def main():
        async with serving(tiny_model) as site:
            for direction in ("encode", "decode", "both"):
                async with site.connect() as ws:
                    await hello(ws, direction=direction)
                    await ws.send_bytes(b"")
                    await ws.send_json({"type": "end"})
                    codes, wavs, last, code = await rest(ws, tiny_model)
                    assert (codes, wavs, code) == ([], [], 1000)
                    assert last == {"type": "done", "frames": 0, "samples_in": 0, "samples_out": 0}

    asyncio.run(main())


def test_a_full_server_says_so_and_places_are_free_again(tiny_model):
    async def main():
        async with serving(tiny_model, max_streams=2) as site:
            async with site.connect() as one:
                await hello(one)
                async with site.connect() as two:  # has not said hello
                    async with site.connect() as three:
                        _, _, last, code = await rest(three, tiny_model)
                        assert "all 2 streams are in use" in last["reason"] and code == 1013
                    await two.close()
                await site.until(1)
                async with site.connect() as four:
                    await hello(four)
            await site.until(0)

    asyncio.run(main())


@pytest.mark.parametrize("manner", ["reset", "closed", "half a message"])
def test_a_client_that_vanishes_frees_its_place(tiny_model, manner):
    async def main():
        async with serving(tiny_model) as site, site.connect() as ws:
            await hello(ws)
            await ws.send_bytes(samples(np.zeros(1000)))
            await ws.receive(timeout=5)
            assert site.server.streams == 1
            transport = ws._response.connection.transport
            if manner == "reset":
                transport.abort()
            elif manner == "closed":
                transport.close()
            else:
                transport.write(b"\x82\xfe\x10\x00abcdxx")  # 4096 bytes are announced
                transport.abort()
            await site.until(0, seconds=2)
            (batcher,) = site.server._batchers.values()
            for _ in range(500):  # until the step that runs has ended
                if len(batcher._engine) == 0:
                    break
                await asyncio.sleep(0.01)
            assert len(batcher._engine) == 0

    asyncio.run(main())


def test_a_slow_client_among_fast_ones_is_closed_and_they_are_not(tiny_model):
    wav = rounded(16_000 * 3)

    async def slow(site):
        """A socket that never reads, after the handshake."""
        reader, writer = await asyncio.open_connection(*site.address[7:].split(":"), limit=1000)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, option, 8192)
        writer.write(b"GET /stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()

        def message(kind: int, payload: bytes) -> bytes:
            return bytes([kind, 0xFE]) + len(payload).to_bytes(2, "big") + bytes(4) + payload

        writer.write(message(0x81, b'{"type": "hello", "format": "f32le"}'))
        pcm = message(0x82, samples(np.zeros(8000), "<f4"))
        sent = 0
        try:
            while sent < 100 * len(pcm):
                writer.write(pcm)
                await asyncio.wait_for(writer.drain(), 60)
                sent += len(pcm)
        except ConnectionError:
            pass
        writer.transport.abort()
        return sent

    async def main():
        async with serving(tiny_model, patience=2.0) as site:
            slowly = asyncio.create_task(slow(site))
            results = await asyncio.gather(*(coded(site, tiny_model, wav, index) for index in range(10)))
            for _, codes, _, last, code in results:
                assert code == 1000 and last["samples_out"] == len(wav)
                assert np.array_equal(np.concatenate(codes, 1), results[0][1] and np.concatenate(results[0][1], 1))
            sent = await slowly
            assert sent < 60 * 32_000  # not buffered without end
            await site.until(0)

    asyncio.run(main())


def test_a_slow_client_that_reads_again_reads_why(tiny_model):
    async def main():
        async with serving(tiny_model, patience=0.3) as site, site.connect() as ws:
            await hello(ws, format="f32le")
            (stream,) = site.server._sockets.values()
            loop = asyncio.get_running_loop()

            async def flood() -> None:
                while True:
                    await ws.send_bytes(samples(np.zeros(8000), "<f4"))

            ws._response.connection.transport.pause_reading()
            flooding = asyncio.create_task(flood())
            before = loop.time()
            await stream._gone.wait()
            assert loop.time() - before < 10
            flooding.cancel()
            ws._response.connection.transport.resume_reading()
            _, _, last, code = await rest(ws, tiny_model, "f32le")
            assert "slow client" in last["reason"] and code == 1008

    asyncio.run(main())


def test_messages_that_are_too_large_are_refused(tiny_model):
    async def main():
        async with serving(tiny_model) as site:
            for size in (MAX_MESSAGE + 1, 30 * MAX_MESSAGE):  # the second is still on its way when it is refused
                async with site.connect() as ws:
                    await hello(ws)
                    await ws.send_bytes(bytes(size))
                    assert (await rest(ws, tiny_model))[3] == 1009
            await site.until(0)

    asyncio.run(main())


def test_the_code_of_closing_arrives_whatever_the_client_still_sends(tiny_model):
    async def one(site, index: int) -> int:
        async with site.connect() as ws:
            await hello(ws, direction="encode")
            await ws.send_bytes(samples(np.zeros(700)))
            await ws.send_json({"type": "end"} if index % 2 else {"type": "nonsense"})
            if not index % 2:
                with contextlib.suppress(ConnectionError, aiohttp.ClientError):
                    for _ in range(20):
                        await ws.send_bytes(samples(np.zeros(30_000)))
            return (await rest(ws, tiny_model))[3]

    async def main():
        async with serving(tiny_model) as site:
            assert await asyncio.gather(*(one(site, index) for index in range(40))) == [1002, 1000] * 20
            await site.until(0)
            while site.server._closing:
                await asyncio.sleep(0.01)

    asyncio.run(main())


def test_only_pages_that_may_open_streams(tiny_model):
    async def main():
        async with serving(tiny_model, origins=["https://friend.example"]) as site:
            for origin in (site.address, "https://friend.example", "https://friend.example:443"):
                async with site.connect(headers={"Origin": origin}) as ws:
                    await hello(ws)
            for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "https://friend.example:1", "http://[", ""):
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await site.connect(headers={"Origin": origin})
                assert refused.value.status == 403
            await site.until(0)

    asyncio.run(main())
    assert allowed("https://any.example", "x", ["*"]) and allowed(None, "x") and allowed("http://x", "x:80") and allowed("http://X", "x")
    assert not allowed("https://x", "x:80") and not allowed("null", "null", ["null"])


def test_clients_of_a_server_that_stops_are_told(tiny_model):
    async def main():
        async with serving(tiny_model) as site:
            async with site.connect() as one, site.connect() as two:
                await hello(one)
                stopping = asyncio.create_task(site.server._stop(None))
                for ws in (one, two):
                    _, _, last, code = await rest(ws, tiny_model)
                    assert "stopped" in last["reason"] and code == 1001
                await asyncio.wait_for(stopping, 5)

    asyncio.run(main())


def test_two_models_of_one_name_are_refused(tiny_model):
    from codec.serving.server import Server

    with pytest.raises(ValueError, match="the same name"):
        Server([tiny_model, tiny_model])
    assert torch.get_num_threads() == 1
