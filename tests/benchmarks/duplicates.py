"""Rows per CPU-second of near-duplicate removal, and what it finds, against datasketch and semhash.

    python -m tests.benchmarks.duplicates [--rows 20000] [--repeats 3] [--sizes 10000 100000 1000000]

The peers are not dependencies: ``pip install datasketch semhash`` first. All three get the same normalised
texts of about 200 bytes, a fifth of them planted copies: exact, case and spacing (which normalisation makes
exact), one word changed, a sentence appended, a paraphrase by template. Ours looks by shingles, then by sets
of words, which sees the paraphrases; a second row without words shows what that costs. Every measurement is a
process of its own, alternated. datasketch gets the same shingles, number of permutations and threshold, a
hash in C, bulk hashing and the LSH of its manual. semhash's own encoder is a download; it gets hashed
character 3- to 5-grams projected to 256 numbers, and the best F1 of five thresholds, while its seconds are
those of one.
``--sizes`` measures ours alone: seconds, and peak memory of the texts and of the whole step on examples.
Prints Markdown.
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from deepcuts.components.core import examples
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.select import duplicates, near
from deepcuts.components.select.views import SHINGLE, SHINGLES, WORDS, View

THRESHOLD = 0.7
KINDS = ("exact", "case and spacing", "one word", "sentence", "paraphrase")
SEMHASH_THRESHOLDS = (0.8, 0.85, 0.9, 0.95, 0.98)
BASE = Path(__file__).parents[2] / "pipelines" / "examples" / "base"


def corpus(count: int, seed: int) -> tuple[list[str], list[str]]:
    """(raw texts, kind of each; "" for an original): four fifths originals, then their copies."""
    drawn = random.Random(seed)
    syllables = [a + b for a in "bcdfglmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "ol")]
    words = ["".join(drawn.choices(syllables, k=drawn.randint(1, 4))) for _ in range(20_000)]

    def story() -> tuple[str, str]:
        """A text of about 200 bytes and its paraphrase."""
        a, b, c, d, *rest = drawn.choices(words, k=30)
        told = " ".join(rest)
        first = f"When {a} came to {b}, the {c} was {d}. {told.capitalize()}."
        return first, f"The {c} was {d} as soon as {a} reached {b}: {' '.join(reversed(rest))}."

    stories = [story() for _ in range(count - count // 5)]
    texts, kinds = [text for text, _ in stories], [""] * len(stories)
    for number, (text, paraphrase) in enumerate(drawn.sample(stories, count // 5)):
        parts = text.split()
        parts[drawn.randrange(len(parts))] = drawn.choice(words)
        copies = (text, text.upper().replace(" ", "  "), " ".join(parts), f"{text} That is all.", paraphrase)
        texts.append(copies[number % 5])
        kinds.append(KINDS[number % 5])
    return texts, kinds


def ours(texts: Sequence[str], looks: Sequence[View] = (SHINGLES, WORDS)) -> set[int]:
    """Rows that go."""
    gone = {match.row for match in duplicates.exact(texts, [None] * len(texts))}
    for view in looks:
        left = [row for row in range(len(texts)) if row not in gone]
        rows = near.sketch([texts[row] for row in left], view)
        gone |= {left[match.row] for match in near.near_duplicates(rows, [None] * len(left), THRESHOLD)}
    return gone


def datasketch(texts: Sequence[str]) -> set[int]:
    from datasketch import MinHash, MinHashLSH

    lsh = MinHashLSH(threshold=THRESHOLD, num_perm=near.PERMUTATIONS)
    gone = set()
    for start in range(0, len(texts), 1024):
        encoded = [text.encode() for text in texts[start : start + 1024]]
        shingles = [list({text[i : i + SHINGLE] for i in range(len(text))}) for text in encoded]
        hashes = MinHash.bulk(shingles, num_perm=near.PERMUTATIONS, hashfunc=zlib.crc32)
        for row, sketch in enumerate(hashes, start=start):
            if lsh.query(sketch):
                gone.add(row)
            else:
                lsh.insert(row, sketch)
    return gone


class Hashed:
    """An encoder without a download: character n-grams, hashed and projected."""

    def __init__(self) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer
        from sklearn.random_projection import SparseRandomProjection

        self._grams = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), n_features=2**16)
        self._project = SparseRandomProjection(256, random_state=0, dense_output=True)

    def encode(self, inputs: Sequence[str], **_: object) -> np.ndarray:
        grams = self._grams.transform(inputs)
        if not hasattr(self._project, "components_"):
            self._project.fit(grams)
        return np.asarray(self._project.transform(grams), dtype=np.float32)


def semhash(texts: Sequence[str], threshold: float = 0.9) -> set[int]:
    from semhash import SemHash

    records = [{"text": text, "row": str(row)} for row, text in enumerate(texts)]
    found = SemHash.from_records(records, columns=["text"], model=Hashed()).self_deduplicate(threshold)
    return set(range(len(texts))) - {int(record["row"]) for record in found.selected}


WAYS: dict[str, Callable[[Sequence[str]], set[int]]] = {
    "deepcuts": ours,
    "deepcuts, no words": lambda texts: ours(texts, [SHINGLES]),
    "datasketch": datasketch,
    "semhash": semhash,
}


def one(way: str, count: int, seed: int) -> dict[str, float | None]:
    """Rows per CPU-second and what was found; the start and the texts are not counted."""
    raw, kinds = corpus(count, seed)
    texts = [duplicates.text(Example(id="", messages=(Message("user", text),))) for text in raw]
    began = time.process_time()
    gone = WAYS[way](texts)
    seconds = time.process_time() - began
    if way == "semhash":
        gone = max(
            (semhash(texts, t) for t in SEMHASH_THRESHOLDS), key=lambda rows: judged(rows, kinds)["f1"]
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"rows_per_second": count / seconds, "seconds": seconds, "peak_bytes": peak} | judged(gone, kinds)


def judged(gone: set[int], kinds: Sequence[str]) -> dict[str, float]:
    planted = {row for row, kind in enumerate(kinds) if kind}
    precision, recall = len(gone & planted) / max(1, len(gone)), len(gone & planted) / len(planted)
    found = {"precision": precision, "recall": recall, "f1": 2 * precision * recall / (precision + recall)}
    for name in KINDS:
        rows = {row for row, kind in enumerate(kinds) if kind == name}
        found[name] = len(gone & rows) / len(rows)
    return found


def step(count: int, seed: int) -> dict[str, float | None]:
    """The whole select step, as its command, on a file of examples."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        raw, _ = corpus(count, seed)
        records = (
            Example(id=str(row), messages=(Message("user", text), Message("assistant", "yes")))
            for row, text in enumerate(raw)
        )
        examples.write(folder / "corpus.jsonl", records)
        del raw
        for name in ("valid", "test"):
            (folder / name).write_text("")
        flags = {name: folder / name for name in ("valid", "test", "cut", "dropped", "report", "receipt")}
        flags |= {"base": BASE, "corpus": folder / "corpus.jsonl", "method": "deduplicate-only"}
        flags |= {"near_threshold": THRESHOLD, "word_threshold": THRESHOLD, "semantic_threshold": 1.0}
        flags |= {"budget_tokens": 0, "seed": 0}
        words = [w for n, v in flags.items() for w in (f"--{n.replace('_', '-')}", str(v))]
        words += ["--embedder-uri", "", "--engine", "local", "--ray", "{}", "--ray-image", "", "--store", ""]
        words += ["--nodepools", '{"pools": []}']
        command = [sys.executable, "-m", "deepcuts.components.select.step", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        receipt = json.loads((folder / "receipt").read_text())
        return {"seconds": receipt["cpu_seconds"], "peak_bytes": receipt["peak_resident_bytes"]}


def apart(*words: object) -> dict[str, float]:
    """One measurement in a separate process."""
    command = [sys.executable, "-m", "tests.benchmarks.duplicates", "--one", *map(str, words)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="*", default=[])
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        way, count, seed = given.one[0], int(given.one[1]), int(given.one[2])
        print(json.dumps(step(count, seed) if way == "step" else one(way, count, seed)))
        return
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(given.repeats):
        for way in WAYS:
            found.setdefault(way, []).append(apart(way, given.rows, seed))
    columns = ("precision", "recall", "f1", *KINDS)
    print(f"| {given.rows:,} rows | rows/CPU-s (spread) | ours is faster by | {' | '.join(columns)} |")
    print("|--|--:|--:|" + "--:|" * len(columns))
    for way, runs in found.items():
        speeds = [run["rows_per_second"] for run in runs]
        pairs = zip(found["deepcuts"], runs, strict=True)
        ratios = [mine["rows_per_second"] / theirs["rows_per_second"] for mine, theirs in pairs]
        shares = " | ".join(f"{statistics.mean(run[name] for run in runs):.3f}" for name in columns)
        print(
            f"| {way} | {statistics.median(speeds):,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f}) | "
            f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}) | {shares} |",
            flush=True,
        )
    if given.sizes:
        print(
            "\n| rows | CPU-s | rows/CPU-s | peak GB | whole step CPU-s | its peak GB |\n" + "|--:" * 6 + "|"
        )
    for count in given.sizes:
        texts, whole = apart("deepcuts", count, 0), apart("step", count, 0)
        print(
            f"| {count:,} | {texts['seconds']:.1f} | {texts['rows_per_second']:,.0f} | "
            f"{texts['peak_bytes'] / 1e9:.2f} | {whole['seconds']:.1f} | {whole['peak_bytes'] / 1e9:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
