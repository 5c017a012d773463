"""Tokenize texts with llama.cpp in a separate process, JSON in and out, as its C++ exceptions end it.

python -m deepcuts.components.gguf.tokens FOLDER < TEXTS.json
"""

import json
import sys
from pathlib import Path

from deepcuts.components.gguf.engine import LlamaCpp

if __name__ == "__main__":
    engine = LlamaCpp(Path(sys.argv[1]))
    print(json.dumps([engine.tokenize(text) for text in json.load(sys.stdin)]))
