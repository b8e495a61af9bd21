"""Many live streams in batches: each is coded as if it were alone, and nothing waits without bounds."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest
import torch
from stream_models import NAMES, alone, noise, random_cuts, streamed

from codec.serving import Batcher, Full, SlowReader
from codec.serving.live_stream import STEP_FRAMES


async def coded(batcher: Batcher, inputs: np.ndarray, direction: str, chance: random.Random, k: int | None = None):
    """Codes (k, m) or None, and samples (n,) or None, of what is sent in random pieces."""
    most = 3 if direction == "decode" else 700
    together = batcher.model.quantizer.frame_multiple if direction == "decode" else 1
    with batcher.open(direction, k) as stream:

        async def feed() -> None:
            at = 0
            for size in random_cuts(inputs.shape[-1] // together, most, chance):
                await stream.send(inputs[..., at * together : (at + size) * together])
                at += size
                if chance.random() < 0.2:
                    await asyncio.sleep(0.001 * chance.random())
            stream.end()

        feeding = asyncio.create_task(feed())
        outputs = [output async for output in stream]
        await feeding
    codes = None if direction == "decode" else np.concatenate([output.codes for output in outputs], 1)
    return codes, None if direction == "encode" else np.concatenate([output.samples for output in outputs])


@pytest.mark.parametrize("name", NAMES)
def test_every_client_gets_what_it_would_get_alone(name):
    model, chance = streamed(name), random.Random(1)
    wavs = [noise(chance.randint(1, 40 * model.frame_size), seed=seed) for seed in range(9)]
    directions = ["encode", "decode", "both"] * 3

    async def main():
        async with Batcher(model) as batcher:
            async def client(index: int):
                await asyncio.sleep(0.02 * chance.random())
                wav, direction = wavs[index], directions[index]
                inputs = alone(model, wav)[0][0].numpy() if direction == "decode" else wav.numpy()
                return await coded(batcher, inputs, direction, random.Random(index))

            results = await asyncio.gather(*map(client, range(len(wavs))))
            assert len(batcher) == 0
            await asyncio.sleep(0.01)
            assert len(batcher._engine) == 0
            return results

    for wav, (codes, samples) in zip(wavs, asyncio.run(main())):
        expected, sound = alone(model, wav)
        if codes is not None:
            assert np.array_equal(codes, expected[0])
        if samples is not None:
            assert samples.shape == sound[0, 0].shape
            np.testing.assert_allclose(samples, sound[0, 0], rtol=0, atol=1e-5)


def test_sixty_four_clients_of_other_numbers_of_codebooks(tiny_model):
    chance = random.Random(2)
    wavs = [noise(chance.randint(1, 4000), seed=seed) for seed in range(64)]

    async def main():
        async with Batcher(tiny_model) as batcher:
            return await asyncio.gather(*(coded(batcher, wav.numpy(), "both", random.Random(i), 1 + i % 4) for i, wav in enumerate(wavs)))

    for index, (wav, (codes, samples)) in enumerate(zip(wavs, asyncio.run(main()))):
        expected = tiny_model.encode(wav, num_codebooks=1 + index % 4).codes
        assert np.array_equal(codes, expected[0])
        np.testing.assert_allclose(samples, tiny_model.decode_frames(expected)[0, 0], rtol=0, atol=1e-5)


def test_streams_that_are_ready_run_together(tiny_model):
    async def main():
        async with Batcher(tiny_model, max_wait=0.5) as batcher:
            sizes, step = [], batcher._engine.step
            batcher._engine.step = lambda jobs: sizes.append(len(jobs)) or step(jobs)
            streams = [batcher.open("encode") for _ in range(8)]
            for _ in range(3):
                for stream in streams:
                    await stream.send(np.zeros(160, np.float32))
                await asyncio.gather(*(stream.receive() for stream in streams))
            assert sizes == [8, 8, 8]

    asyncio.run(main())


def test_a_stream_waits_no_longer_than_it_must(tiny_model):
    async def main():
        async with Batcher(tiny_model, max_wait=0.02) as batcher:
            batcher.open("encode")  # says nothing
            with batcher.open("encode") as stream:
                await stream.send(np.zeros(160, np.float32))
                await asyncio.wait_for(stream.receive(), 5)

    asyncio.run(main())


def test_the_number_of_codebooks_changes_within_a_stream(tiny_model):
    wav = noise(160 * 6)
    expected = tiny_model.encode(wav).codes[0].numpy()

    async def main():
        async with Batcher(tiny_model) as batcher:
            with batcher.open("both", 4) as stream:
                for frame, number in enumerate((4, 1, 3, 3, 2, 4)):
                    stream.num_codebooks = number
                    await stream.send(wav[160 * frame : 160 * (frame + 1)].numpy())
                    output = await stream.receive()
                    assert np.array_equal(output.codes, expected[:number, frame : frame + 1])
                with pytest.raises(ValueError, match="5 codebooks"):
                    stream.num_codebooks = 5

    asyncio.run(main())


def test_what_is_refused(tiny_model):
    async def main():
        async with Batcher(tiny_model, max_streams=2) as batcher:
            with pytest.raises(ValueError, match="there is encode, decode, both"):
                batcher.open("sideways")
            with pytest.raises(ValueError, match="5 codebooks"):
                batcher.open("encode", 5)
            with batcher.open("decode") as stream, batcher.open("encode") as other:
                with pytest.raises(Full, match="all 2 streams are in use"):
                    batcher.open()
                for bad in (np.zeros(3), np.full((4, 2), 32), np.full((4, 2), -1), np.zeros((5, 2))):
                    with pytest.raises(ValueError):
                        await stream.send(bad)
                for bad in (np.zeros((1, 3)), np.zeros(3, np.int16), np.array([np.nan], np.float32)):
                    with pytest.raises(ValueError):
                        await other.send(bad)
                other.end()
                assert await other.receive() is None
                with pytest.raises(RuntimeError, match="ended"):
                    await other.send(np.zeros(1, np.float32))
            assert len(batcher) == 0
            with pytest.raises(RuntimeError, match="closed"):
                await stream.send(np.zeros((4, 1)))
            batcher.open(), batcher.open()  # their places are free again

    asyncio.run(main())


def test_who_sends_too_much_waits_and_who_reads_too_little_is_closed(tiny_model):
    second = 100 * 160

    async def main():
        async with Batcher(tiny_model, patience=0.3) as batcher:
            with batcher.open("both") as slow, batcher.open("both") as fast:

                async def flood(stream) -> None:
                    for _ in range(200):
                        await stream.send(np.zeros(1600, np.float32))
                    stream.end()

                flooding = asyncio.create_task(flood(slow))
                other = asyncio.create_task(flood(fast))
                total = sum([len(output.samples) async for output in fast])  # faster than real time, and not closed
                await other
                assert total == 20 * second
                with pytest.raises(SlowReader, match="slow client"):
                    await asyncio.wait_for(flooding, 10)
                assert slow.samples_in <= 2 * second + 1600 + STEP_FRAMES * 160
                with pytest.raises(SlowReader):
                    await slow.receive()
                assert len(batcher) == 1

    asyncio.run(main())


def test_a_step_that_fails_ends_its_streams_only(tiny_model):
    async def main():
        async with Batcher(tiny_model) as batcher:
            step = batcher._engine.step

            def fail(_):
                raise ArithmeticError("broken")

            with batcher.open() as stream:
                batcher._engine.step = fail
                await stream.send(np.zeros(160, np.float32))
                with pytest.raises(RuntimeError, match="ArithmeticError: broken"):
                    await stream.receive()
            batcher._engine.step = step
            codes, _ = await coded(batcher, noise(1000).numpy(), "encode", random.Random(0))
            assert np.array_equal(codes, tiny_model.encode(noise(1000)).codes[0])

    asyncio.run(main())


def test_extreme_samples_of_one_stream_change_nothing_for_another(tiny_model):
    wav = noise(1600)

    async def main():
        async with Batcher(tiny_model, max_wait=0.5) as batcher:
            with batcher.open("both") as wild, batcher.open("both") as calm:
                for part in wav.split(160):
                    await wild.send(np.full(160, 3e38, np.float32))
                    await calm.send(part.numpy())
                    yield (await asyncio.gather(wild.receive(), calm.receive()))[1]

    async def gathered():
        return [output.codes async for output in main()]

    assert np.array_equal(np.concatenate(asyncio.run(gathered()), 1), tiny_model.encode(wav).codes[0])


def test_a_long_stream_holds_no_more_than_a_short_one(tiny_model):
    async def main():
        async with Batcher(tiny_model) as batcher:
            with batcher.open("both") as stream:
                sizes = []
                for _ in range(60):
                    await stream.send(np.zeros(1600, np.float32))
                    got = 0
                    while got < 10:
                        got += (await stream.receive()).codes.shape[1]
                    (block,) = batcher._engine._encoders._blocks.values()
                    sizes.append(sum(value.numel() for value in block._rows.dump().values()))
                assert len(set(sizes)) == 1

    asyncio.run(main())


def test_models_that_see_all_of_a_signal_are_refused(tiny_model, monkeypatch):
    monkeypatch.setattr(type(tiny_model.encoder), "window", (10, 2), raising=False)
    with pytest.raises(ValueError, match="cannot run live"):
        Batcher(tiny_model)
    assert torch.is_grad_enabled()
