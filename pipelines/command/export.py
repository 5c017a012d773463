"""Export a release, verified, in the format that a server loads."""

import shutil
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from deepcuts.components.core import carry, files
from deepcuts.components.core.manifest import MANIFEST
from deepcuts.components.ledger import formatting
from deepcuts.pipelines.command import chat
from deepcuts.pipelines.command.options import RELEASES, Releases, out


class ExportFormat(StrEnum):
    """Formats of an export."""

    hf = "hf"
    gguf = "gguf"
    adapter = "adapter"
    adapter_gguf = "adapter-gguf"


class GgufType(StrEnum):
    """Number formats of a GGUF file (the same as in ``components/gguf/convert.py``, by a test)."""

    F16 = "F16"
    Q8_0 = "Q8_0"
    Q4_K_M = "Q4_K_M"


def export(
    release: Annotated[
        str, typer.Argument(metavar="RELEASE", help="NAME, NAME/VERSION or a URI.", show_default=False)
    ],
    to: Annotated[str, typer.Option("--to", help="A new folder, or s3://bucket/prefix.", show_default=False)],
    form: Annotated[
        ExportFormat,
        typer.Option(
            "--as",
            help="hf: as released (transformers, vLLM); gguf: llama.cpp and Ollama; adapter: PEFT, vLLM; "
            "adapter-gguf: llama.cpp's --lora.",
        ),
    ] = ExportFormat.hf,
    kind: Annotated[GgufType, typer.Option("--type", help="Number format of gguf.")] = GgufType.Q8_0,
    store: Releases = RELEASES,
) -> None:
    """Copy a release, verified, to a folder or a bucket, in the format that a server loads.

    Raises:
        FileExistsError: the folder exists and is not empty.
        ValueError: llama.cpp does not support the model, or is not installed.
    """
    target = Path(to)
    if "://" not in to and target.exists() and any(target.iterdir()):
        raise FileExistsError(f"{to} is not empty: name a new folder")
    with chat.located(release, store) as folder, tempfile.TemporaryDirectory() as scratch:
        model = target if "://" not in to else Path(scratch) / "model"
        with files.staged(model) as staging:
            said = _write(folder, staging, form, kind)
        if "://" in to:
            carry.put(to, model)
        size = formatting.size(files.size_bytes(model))
    out.print(f"{release} is in {to}: {size}{said}", highlight=False, soft_wrap=True)


def _write(release: Path, folder: Path, form: ExportFormat, kind: GgufType) -> str:
    """Write the release to ``folder``; return a note on it, starting with a comma."""
    if form is ExportFormat.hf:
        shutil.copytree(release, folder, ignore=shutil.ignore_patterns(MANIFEST))
        return ""
    from deepcuts.components.gguf import folders  # takes seconds to import

    folder.mkdir()
    if form is ExportFormat.gguf:
        return f", {folders.export(release, folder, kind.value)}"
    return f", {folders.export_adapter(release, folder, form is ExportFormat.adapter_gguf)}"
