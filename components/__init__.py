import logging

# torchao (which peft imports) warns with torch 2.13, twice on every start: lines that stand in for progress
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
