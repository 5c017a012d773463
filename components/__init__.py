import logging
import sys

# torchao, where it is installed (peft imports it), warns with torch 2.13, twice on every start: the
# command would show these lines as progress
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)

if sys.argv[:1] == ["-m"]:  # python -m: a step is imported next, and may lack the extra of its image
    from deepcuts.components.core import extras

    sys.excepthook = extras.explain
