"""The program behind the table of docs/discriminators.md."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import discriminators
from discriminators.registry import FAMILIES

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # last: its files must not hide packages

import discriminator_costs  # noqa: E402

DOCS = Path(__file__).resolve().parents[2] / "docs" / "discriminators.md"


def rows(text):
    lines = [line.strip("| ") for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def test_prints_a_row_per_size(capsys):
    discriminator_costs.main(["--names", "msd,msstft", "--seconds", "0.2", "--repeats", "1", "--no-step"])
    table = rows(capsys.readouterr().out)
    assert [row[:2] for row in table] == [
        ["`msd`", "ours"], ["`msd`", "MelGAN"], ["`msd`", "HiFi-GAN"], ["`msstft`", "ours"], ["`msstft`", "EnCodec"]
    ]
    assert float(table[2][3]) == pytest.approx(29.62) and table[3][7:] == ["1.00", "1.00"]
    assert all(float(cell) > 0 for row in table for cell in row[2:5])


def test_operations_are_those_of_the_formula(capsys):
    """msstft: (50 channels**2 + 108 channels) multiply-adds per sample and resolution, twice that in operations."""
    (entry,) = (e for e in discriminator_costs.entries(["msstft"], 16_000, 4.0) if e.system == "ours")
    flops = discriminator_costs.gflop(entry.judge, entry.wav) / 4
    assert flops == pytest.approx(2 * (50 * 16**2 + 108 * 16) * 3 * 16_000 / 1e9, rel=0.05)


def test_the_docs_list_every_size_with_its_parameters():
    documented = {(row[0].strip("`"), row[1]): row[3] for row in rows(DOCS.read_text()) if len(row) == 9}
    sizes = {(name, system) for name, family in FAMILIES.items() for system in ("ours", *family.PUBLISHED)}
    assert set(documented) == sizes
    for name in ("logmel", "mfd", "mrd", "msd", "mssbcqt", "msstft"):
        judge = discriminators.build(name)
        assert documented[name, "ours"] == f"{sum(p.numel() for p in judge.parameters()) / 1e6:.2f}"


@pytest.mark.parametrize("arguments", [["--names", "nope"], ["--seconds", "0"], ["--repeats", "0"], ["--rate", "0"], ["--names", "whisper"]])
def test_usage(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        discriminator_costs.parse(arguments)
    says = {"nope": "there is logmel, mfd", "whisper": "needs --teacher"}
    assert says.get(arguments[1], "") in capsys.readouterr().err
