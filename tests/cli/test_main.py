"""The command itself: help without torch, exit codes, pipes that close, interruption, a killed process."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from codec import cli
from codec.cli.common import check_input, check_output
from codec.cli.progress import Progress


@pytest.mark.parametrize("args", [["--help"], ["--version"], *([verb, "--help"] for verb in cli.VERBS)])
def test_help_imports_nothing_heavy(args):
    script = (
        "import sys; from codec.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit as exit: assert exit.code == 0\n"
        "assert not {'torch', 'numpy', 'soundfile'} & set(sys.modules)"
    )
    root = os.path.dirname(os.path.dirname(cli.__file__))
    done = subprocess.run(
        [sys.executable, "-c", script, *args], capture_output=True, cwd=os.path.dirname(root), text=True
    )
    assert done.returncode == 0 and done.stdout, done.stderr


def test_python_m_codec(spawn):
    process = spawn("encode", "missing.wav", "a.tok", text=True)
    out, err = process.communicate()
    assert (process.returncode, out) == (1, "") and err == "codec: missing.wav: no such file\n"


@pytest.mark.parametrize("args, words", [(["encode", "-", "a.tok"], "nothing is piped in"), (["decode", "a.wav", "-"], "add > FILE")])
def test_closed_pipes_are_refused(args, words, run, record, monkeypatch):
    record()
    monkeypatch.setattr("sys.stdin" if "encode" in args else "sys.stdout", None)
    assert run(*args).code == 1
    with pytest.raises(ValueError, match=words):
        (check_input if "encode" in args else check_output)("-")


@pytest.mark.parametrize("args, expected", [
    (["encode", "a.wav", "--bitrate", "2", "b.tok"], {"input": "a.wav", "output": "b.tok", "bitrate": 2}),
    (["encode", "--bitrate", "2", "a.wav"], {"input": "a.wav", "output": None, "bitrate": 2}),
    (["encode", "-", "--codebooks", "3", "-"], {"input": "-", "output": "-", "codebooks": 3}),
    (["train", "mimi", "--tiny", "a=1", "b=2"], {"recipe": "mimi", "tiny": True, "overrides": ["a=1", "b=2"]}),
    (["train", "mimi", "a=1", "--tiny", "b=2"], {"recipe": "mimi", "tiny": True, "overrides": ["a=1", "b=2"]}),
    (["train", "mimi"], {"recipe": "mimi", "tiny": False, "overrides": []}),
])
def test_options_stand_anywhere(args, expected):
    """Plain argparse refuses what follows an option, where it may be left out."""
    parsed = vars(cli.build_parser().parse_args(args))
    assert {key: parsed[key] for key in expected} == expected


def test_every_verb_has_help(run):
    listed = run("--help").out
    for verb in cli.VERBS:
        assert f"\n    {verb} " in listed or f"\n    {verb}\n" in listed  # a long name has a line of its own
        assert run(verb, "--help").code == 0


@pytest.mark.parametrize("args", [[], ["nonsense"], ["encode"], ["decode", "a.tok"], ["encode", "a", "b", "--what"],
                                  ["encode", "a", "b", "--bitrate", "1", "--codebooks", "1"],
                                  ["encode", "a", "b", "--codebooks", "many"]])
def test_wrong_usage_is_2(args, run):
    result = run(*args)
    assert result.code == 2 and "usage:" in result.err and not result.out


def fail_with(monkeypatch, error: BaseException):
    def run(args):
        raise error

    import codec.cli.models

    monkeypatch.setattr(codec.cli.models, "run", run)


@pytest.mark.parametrize("error, line", [
    (ValueError("two\nlines"), "codec: two lines\n"),
    (FileNotFoundError(errno.ENOENT, "No such file", "x.wav"), "codec: x.wav: No such file\n"),
    (MemoryError(), "codec: not enough memory: close other programs, or choose another --device\n"),
])
def test_errors_are_one_line(error, line, run, monkeypatch):
    fail_with(monkeypatch, error)
    result = run("models")
    assert (result.code, result.out, result.err) == (1, "", line)


def test_a_mistake_of_ours_keeps_its_traceback(run, monkeypatch):
    fail_with(monkeypatch, RuntimeError("shapes"))
    with pytest.raises(RuntimeError):
        run("models")


def test_interruption_is_130(run, monkeypatch):
    fail_with(monkeypatch, KeyboardInterrupt())
    result = run("models")
    assert (result.code, result.err) == (130, "")


def test_a_closed_pipe_is_quiet(run, spawn, record, model_dir):
    record(seconds=30)
    assert run("encode", "a.wav", "a.tok", "--model", model_dir).code == 0
    process = spawn("decode", "a.tok", "-", "--model", model_dir)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait() == 141 and err == b""


def test_a_full_disk_is_one_line(run, spawn, record, model_dir):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    record()
    assert run("encode", "a.wav", "a.tok", "--model", model_dir).code == 0
    with open("/dev/full", "wb") as full:
        process = spawn("decode", "a.tok", "-", "--model", model_dir, stdout=full, text=True)
        err = process.stderr.read()
    assert process.wait() == 1 and "disk is full" in err and err.count("\n") == 1, err
    for args in (["encode", "a.wav"], ["decode", "a.tok"]):
        result = run(*args, "/dev/full", "--model", model_dir)
        assert result.code == 1 and "disk is full" in result.err and result.err.count("\n") == 1


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_process_leaves_no_half_file(kill, run, spawn, record, model_dir, tmp_path):
    if os.name != "posix":
        pytest.skip("POSIX signals")
    record(seconds=600, rate=8000, channels=2)
    process = spawn("encode", "a.wav", "a.tok", "--model", model_dir)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".*.part")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(kill)
    err = process.communicate()[1]
    left = sorted(path.name for path in tmp_path.iterdir() if path.name != "a.wav")
    if kill == signal.SIGINT:
        assert (process.returncode, err, left) == (130, b"", [])
    else:
        assert len(left) == 1 and left[0].startswith(".")
        record()
        assert run("encode", ".", "out", "--model", model_dir).code == 0  # what is left is no obstacle
        assert os.listdir(tmp_path / "out") == ["a.tok"]


def test_progress_is_for_terminals():
    class Screen:
        def __init__(self, terminal: bool):
            self.terminal, self.text = terminal, ""

        def isatty(self) -> bool:
            return self.terminal

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None:
            pass

    for terminal in (True, False):
        screen = Screen(terminal)
        with Progress(screen) as progress:
            progress.update(1, 4, "one")
            progress.update(2, 4, "too soon to be seen")
        assert ("25% [######" in screen.text and "one" in screen.text) == terminal
        assert "too soon" not in screen.text and bool(screen.text) == terminal
        assert not terminal or screen.text.endswith("\r\x1b[K")
