"""`codec serve` as a user runs it: a process, signals and mistakes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import codec
from codec.cli import main
from codec.model import Codec

pytest.importorskip("aiohttp")
import aiohttp  # noqa: E402
from clients import hello, rest, samples  # noqa: E402


@pytest.fixture(scope="module")
def folder(tiny_config, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    codec.save(Codec(tiny_config), path)
    return path


@pytest.mark.skipif(os.name == "nt", reason="no signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_clients_are_told(folder, number):
    process = subprocess.Popen(
        [sys.executable, "-m", "codec", "serve", str(folder), "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    async def talk(address: str):
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{address}/stream") as ws:
            await hello(ws)
            await ws.send_bytes(samples(np.zeros(1600)))
            await ws.receive(timeout=30)
            process.send_signal(number)
            return (await rest(ws, codec.load(folder)))[2:]

    try:
        line = process.stdout.readline()
        assert line.startswith("tiny at http://127.0.0.1:") and "up to 64 streams" in line
        last, code = asyncio.run(talk(line.split()[2].rstrip(":")))
        assert "stopped" in last["reason"] and code == 1001
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0 and errors == ""
    finally:
        process.kill()
        process.wait()


def test_a_port_in_use_is_told_on_one_line(folder, capsys):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", str(folder), "--port", str(taken.getsockname()[1])]) == 1
    error = capsys.readouterr().err
    assert error.startswith("codec: ") and error.count("\n") == 1 and "address already in use" in error.lower()


def test_without_aiohttp_the_remedy_is_told(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    assert main(["serve", str(folder)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and 'pip install "neural-codec-toolkit[serve]"' in error


def test_the_help_waits_for_nothing_heavy():
    program = """
import contextlib, io, sys
from codec.cli import main
with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
    main(["serve", "--help"])
assert "--max-streams" in out.getvalue()
assert not {"torch", "numpy", "aiohttp", "asyncio"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.parametrize("options", [["--port", "70000"], ["--max-streams", "0"], ["--max-wait", "-1"], ["--patience", "nan"]])
def test_options_out_of_range(options):
    with pytest.raises(SystemExit) as stop:
        main(["serve", *options])
    assert stop.value.code == 2
