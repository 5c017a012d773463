"""Name the pushed images by digest in kustomizations: ``digests.py ENGINE REGISTRY TAG FOLDER …``.

Writes an ``images:`` entry for each image of ours, ``REGISTRY/NAME:TAG@sha256:…``, and prints the variable
DEEPCUTS_DIGESTS for compiled pipelines and Jobs. Digests come from it, or from docker's or podman's push.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

NAMES = ("data", "train", "serve", "ops")
SHIPPED = "localhost/deepcuts"
"""What the manifests name."""
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
BLOCK = re.compile(r"^images:\n((?:[-#][^\n]*\n|[ ][^\n]*\n)*)", re.MULTILINE)


def given(text: str) -> dict[str, str]:
    """Return digests by image from ``train=sha256:…,data=sha256:…``.

    Raises:
        ValueError: an image has none, or one that is none.
    """
    found = dict(word.partition("=")[::2] for word in text.split(","))
    for name in NAMES:
        if not DIGEST.fullmatch(found.get(name, "")):
            raise ValueError(f"DEEPCUTS_DIGESTS has {found.get(name)!r} for {name}: give {name}=sha256:…")
    return {name: found[name] for name in NAMES}


def pushed(engine: str, registry: str, tag: str) -> dict[str, str]:
    """Return digests by image, as the registry gave them to ``engine`` when the image was pushed.

    Raises:
        ValueError: an image was not built, or not pushed there.
    """
    return {name: _pushed(engine, f"{registry}/{name}", tag) for name in NAMES}


def _pushed(engine: str, repository: str, tag: str) -> str:
    words = [*engine.split(), "image", "inspect", "--format", "{{json .RepoDigests}}", f"{repository}:{tag}"]
    answer = subprocess.run(words, capture_output=True, text=True)
    for reference in json.loads(answer.stdout or "null") or []:
        name, _, digest = reference.partition("@")
        if name == repository and DIGEST.fullmatch(digest):
            return digest
    raise ValueError(
        f"{' '.join(words[:-1])!r} knows no digest of {repository}:{tag}: push it first, or give the "
        f"registry's in DEEPCUTS_DIGESTS. {answer.stderr.strip()}"
    )


def pinned(kustomization: str, registry: str, tag: str, digests: dict[str, str]) -> str:
    """Return the text with an entry for each of our images; entries of others, and all else, stay."""
    block = BLOCK.search(kustomization)
    entries = re.split(r"^(?=- )", block[1], flags=re.MULTILINE) if block else []
    kept = [entry for entry in entries if entry.startswith("- ") and f"{SHIPPED}/" not in entry]
    ours = [
        f"- name: {SHIPPED}/{name}\n  newName: {registry}/{name}\n  newTag: {tag}\n  digest: {digest}\n"
        for name, digest in digests.items()
    ]
    made = "images:\n" + "".join([*kept, *ours])
    if block:
        return kustomization[: block.start()] + made + kustomization[block.end() :]
    return kustomization.rstrip("\n") + "\n" + made


def main(engine: str, registry: str, tag: str, *folders: str) -> None:
    """Pin the kustomization of each folder."""
    known = os.environ.get("DEEPCUTS_DIGESTS", "")
    digests = given(known) if known else pushed(engine, registry, tag)
    for folder in folders:
        path = Path(folder) / "kustomization.yaml"
        path.write_text(pinned(path.read_text(), registry, tag, digests))
    print("export DEEPCUTS_DIGESTS=" + ",".join(f"{name}={digest}" for name, digest in digests.items()))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ValueError as error:
        sys.exit(f"digests: {error}")
