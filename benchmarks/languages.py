"""Recordings of five languages that the models in the box never heard, for `codec sweep`: 40 from packages of Debian.

    python benchmarks/languages.py OUT                  # downloads 260 MB with apt-get; needs ffmpeg
    codec sweep OUT/manifest.json --models speech-16k,lyra --bitrates 1.5,3,4,6 --out REPORT
    python benchmarks/languages.py OUT --of REPORT      # means by language

Spanish, French and Italian prompts of telephone systems (one speaker each, kept as 16 kHz G.722), a Russian voice made for synthesis
(studio, 16 kHz) and Czech actors of a game (Vorbis). Eight of each of 4 to 10 s, evenly over the names. Measured on, never trained on.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

import soundfile

RATE = 16_000
COUNT = 8
SECONDS = (4.0, 10.0)
PACKAGES = {  # language: package of Debian, files in it
    "es": ("asterisk-core-sounds-es-g722", "usr/share/asterisk/sounds/es_*/**/*.g722"),
    "fr": ("asterisk-core-sounds-fr-g722", "usr/share/asterisk/sounds/fr_*/**/*.g722"),
    "it": ("asterisk-core-sounds-it-g722", "usr/share/asterisk/sounds/it_*/**/*.g722"),
    "ru": ("festvox-ru", "usr/share/festival/voices/russian/**/*.wav"),
    "cs": ("fillets-ng-data-cs", "usr/share/games/fillets-ng/sound/**/*.ogg"),
}


def seconds(path: Path) -> float:
    return path.stat().st_size / 8000 if path.suffix == ".g722" else soundfile.info(path).duration


def convert(source: Path, target: Path) -> None:
    kind = ["-f", "g722"] if source.suffix == ".g722" else []
    subprocess.run(["ffmpeg", "-v", "error", "-y", *kind, "-i", source, "-ac", "1", "-ar", str(RATE), target], check=True)


def gather(out: Path) -> None:
    """Write LANGUAGE-N.flac for each recording, and manifest.json."""
    out.mkdir(parents=True, exist_ok=True)
    entries = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for language, (package, pattern) in PACKAGES.items():
            subprocess.run(["apt-get", "download", "-q", package], cwd=work, check=True, stdout=subprocess.DEVNULL)
            (archive,) = work.glob(f"{package}_*.deb")
            subprocess.run(["dpkg", "-x", archive, work / language], check=True)
            found = [path for path in sorted((work / language).glob(pattern))
                     if "silence" not in path.parts and SECONDS[0] <= seconds(path) <= SECONDS[1]]
            for number in range(COUNT):
                name = f"{language}-{number}.flac"
                convert(found[number * len(found) // COUNT], out / name)
                entries.append({"path": name, "split": "eval", "language": language, "speaker": language})
    (out / "manifest.json").write_text(json.dumps(entries, indent=1))
    print(f"{len(entries)} recordings: {out / 'manifest.json'}")


def report(out: Path, sweep: Path) -> None:
    """Print a row for each system and setting: the mean of each metric in each language."""
    languages = {entry["path"]: entry["language"] for entry in json.loads((out / "manifest.json").read_text())}
    sums: dict[tuple[str, str, float], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with open(sweep / "results.csv", newline="") as file:
        for row in csv.DictReader(file):
            language = languages.get(Path(row["file"]).name)
            if language and row["value"]:
                sums[row["metric"], row["model"], float(row["bitrate"])][language].append(float(row["value"]))
    print("metric", "model", "kbit/s", *PACKAGES, sep="\t")
    for (metric, model, bitrate), values in sorted(sums.items()):
        means = (f"{sum(values[language]) / len(values[language]):.3f}" if values[language] else "-" for language in PACKAGES)
        print(metric, model, f"{bitrate / 1000:.2f}", *means, sep="\t")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--of", type=Path, metavar="REPORT")
    args = parser.parse_args()
    if args.of:
        report(args.out, args.of)
    else:
        gather(args.out)


if __name__ == "__main__":
    main()
