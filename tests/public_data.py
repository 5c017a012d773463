"""Put the public data of the slow tests and the benchmarks into one folder, each file known by its digest.

    python -m tests.public_data                   # clones what is missing with git, 40 MB
    python -m tests.public_data --source PATH     # looks for it below a folder of this machine instead

The folder is ``DEEPCUTS_DATA``, else ``../shared/data``. Nothing that is there is written again.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from deepcuts.components.core import files
from tests.conftest import SHARED

REPOSITORIES = {
    "gsm8k": "https://github.com/openai/grade-school-math",  # MIT
    "banking77": "https://github.com/PolyAI-LDN/task-specific-datasets",  # CC BY 4.0
    "retraining": "https://github.com/Jayachander123/RES-Green-Time-Series-Forecasting",  # MIT
}
DIGESTS = {
    "gsm8k/train.jsonl": "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
    "gsm8k/test.jsonl": "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
    "banking77/categories.json": "53261da888122daf2d120d925458631d9619e15d82e56052e7a42e535ce32b63",
    "banking77/train.csv": "b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b",
    "banking77/test.csv": "d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d",
    "retraining/electricity_weekly.csv": "fb8b9e7412af94c41d585f3b088128e3c4c7647f65dcebee78f907bf27b3b6bd",
    "retraining/m5_sales_clean.csv": "e4dd3bcf843de52b66b4bd218dca975762addb1540b965f21b61ce387e9e52fd",
    "retraining/wiki_weekly.csv": "ed5c7647b4a16f92fe041733d08c68df76524dcc239756a9c60de1759ebe934a",
    "models/stories260K/model.safetensors": (
        "407a7c581bdd66972383ce9ad24857713fb98786d06ea564a2fe9b34ebe77dfd"
    ),
    "models/stories260K/tokenizer.json": "d9bbb431a9cdb30aa643ed6afb4fc7e5c747a009b973e1cad334478358c0089a",
    "models/stories260K/config.json": "055e562ff750aa24d70704d64de4b936bb2c47671de6e62f9ba23110c5b9e8bb",
    "models/stories260K/tokenizer_config.json": (
        "f0eada4f42aa174d1f4fca302278e634b08ae13a4e8595081e7adcfc23cb5b7e"
    ),
    "models/stories260K/generation_config.json": (
        "e9c42bd8c4e08af12d7090aa6d4ad66489ade8373cd9b7d49f651c60103ce14c"
    ),
}
CONVERTED = (
    "models/stories260K is the checkpoint stories260K of karpathy/llama2.c (MIT), written as a Hugging Face "
    "folder; no repository has it in this form: give --source PATH with a copy, or its tests are skipped"
)


def missing(folder: Path, wanted: Mapping[str, str] = DIGESTS) -> dict[str, str]:
    """Return the files that are not in ``folder``, or are others, with their digests."""
    return {
        name: known
        for name, known in wanted.items()
        if not (folder / name).is_file() or files.digest(folder / name) != known
    }


def take(source: Path, folder: Path, wanted: Mapping[str, str]) -> None:
    """Copy each wanted file that lies anywhere below ``source``, under whatever name."""
    names = {known: name for name, known in wanted.items()}
    suffixes = {Path(name).suffix for name in wanted}
    for path in _files(source):
        if path.suffix in suffixes and (name := names.get(files.digest(path))):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)


def _files(source: Path) -> Iterator[Path]:
    return (path for path in source.rglob("*") if path.is_file() and ".git" not in path.parts)


def clone(folder: Path, wanted: Mapping[str, str]) -> None:
    """Take what is wanted from its own repositories."""
    for name in sorted({Path(path).parts[0] for path in wanted} & REPOSITORIES.keys()):
        with tempfile.TemporaryDirectory() as scratch:
            command = ["git", "clone", "--quiet", "--depth", "1", REPOSITORIES[name], scratch]
            if subprocess.run(command, env=os.environ | {"GIT_TERMINAL_PROMPT": "0"}).returncode == 0:
                take(Path(scratch), folder, wanted)


def main() -> int:
    """Fill the folder; returns 3 while a file is missing."""
    parser = argparse.ArgumentParser(description="Get the public data of the slow tests and the benchmarks.")
    parser.add_argument("--source", type=Path, help="a folder of this machine to look in, instead of git")
    arguments = parser.parse_args()
    if arguments.source and not arguments.source.is_dir():
        parser.error(f"--source {arguments.source}: no such folder")
    if wanted := missing(SHARED):
        take(arguments.source, SHARED, wanted) if arguments.source else clone(SHARED, wanted)
    left = missing(SHARED)
    for name in left:
        print(f"missing: {SHARED / name}, sha256 {left[name]}", file=sys.stderr)
    if any(name.startswith("models/") for name in left):
        print(CONVERTED, file=sys.stderr)
    print(f"{len(DIGESTS) - len(left)} of {len(DIGESTS)} files are in {SHARED}")
    return 3 if left else 0


if __name__ == "__main__":
    sys.exit(main())
