"""Serve a release over OpenAI's API, with llama.cpp's server for GGUF files and transformers' for others.

python -m deepcuts.components.publish.serve --folder FOLDER --host 127.0.0.1 --port 8000 --threads 4
"""

import argparse
import os
import signal
import threading
from pathlib import Path

from deepcuts.components.gguf import convert

PARALLEL = 4
"""Answers that llama.cpp decodes concurrently; more have to wait."""


def serve(folder: Path, host: str, port: int, threads: int) -> None:
    """Serve the release in ``folder`` until SIGTERM; ``/health`` tells when it is ready.

    Raises:
        FileNotFoundError, DataError: there is no release, or its GGUF file is not valid.
        ValueError: it needs llama.cpp's server, which is not installed or cannot be loaded.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist: pull a release first")
    if convert.is_gguf(folder):
        in_llama(folder / convert.FILE, host, port, threads)
    else:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        flags = [
            f"--host={host}",
            f"--port={port}",
            "--device=cpu",
            "--dtype=float32",
        ]  # 16 bits are slow on a CPU
        os.execvp("transformers", ["transformers", "serve", str(folder), *flags])


def in_llama(file: Path, host: str, port: int, threads: int) -> None:
    """Run llama.cpp's server in this process until SIGTERM."""
    convert.check_file(file)
    try:
        import xllamacpp
    except ModuleNotFoundError as error:
        raise ValueError('no llama.cpp server here: pip install "deepcuts[serve]", or xllamacpp') from error
    except ImportError as error:  # in a slim image
        raise ValueError(f"llama.cpp's server does not load ({error}): apt-get install libgomp1") from error
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(file)
    parameters.hostnames, parameters.port = [host], port
    parameters.n_parallel, parameters.n_gpu_layers = PARALLEL, 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
    server = xllamacpp.Server(parameters)
    print(f"llama.cpp serves {file} on {server.listening_address}", flush=True)
    ended.wait()


if __name__ == "__main__":
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--folder", type=Path, required=True)
    flags.add_argument("--host", required=True)
    flags.add_argument("--port", type=int, required=True)
    flags.add_argument("--threads", type=int, required=True)
    serve(**vars(flags.parse_args()))
