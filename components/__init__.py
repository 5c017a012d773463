import logging
import sys

# torchao, if installed (peft imports it), warns twice on every start with torch 2.13, and the command would
# show these lines as progress
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)

if sys.argv[:1] == ["-m"]:  # python -m: a step is imported next, and the extra of its image may be missing
    from deepcuts.components.core import extras

    sys.excepthook = extras.explain
