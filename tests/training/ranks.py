"""One rank of a training over several processes: started by torchrun in test_loop.py and test_shares.py."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.distributed.tensor import DTensor

from deepcuts.components.core.store import FileStore
from deepcuts.components.training import adapters, loop
from deepcuts.components.training.checkpoints import Checkpoints, whole_weights
from deepcuts.components.training.losses import CompletionLoss
from tests.training import tiny


class Counted(Checkpoints):
    saves = 0

    def save(self, *arguments):
        self.saves += 1
        return super().save(*arguments)


class Mortal(FileStore):
    """A store in whose upload number ``deadly`` the second process is killed."""

    deadly, uploads = 0, 0

    def put(self, key, path):
        self.uploads += 1
        if torch.distributed.get_rank() == 1 and self.uploads == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        super().put(key, path)


def held(parameter: torch.nn.Parameter) -> int:
    """Numbers of a parameter that lie in this process."""
    return parameter.to_local().numel() if isinstance(parameter, DTensor) else parameter.numel()


def main(folder: Path, changed: dict[str, object], deadly: int) -> None:
    torch.set_num_threads(1)
    recipe, accelerator = tiny.recipe(**changed), Accelerator(cpu=True)
    if not accelerator.is_main_process:
        recipe = tiny.recipe(**changed | {"save_every_seconds": 0.01})  # its clock runs ahead
    model = adapters.adapt(tiny.model("qwen2"), recipe, accelerator.device)
    store = Mortal(folder / "store")
    store.deadly = deadly
    checkpoints = Counted(store, "run", recipe.keep_checkpoints)
    outcome = loop.train(CompletionLoss(model), tiny.rendered(40), recipe, accelerator, checkpoints)
    saves = gather_object([checkpoints.saves])
    held_share = sum(map(held, model.parameters())) / sum(p.numel() for p in model.parameters())
    weights = dict(whole_weights(model))
    if accelerator.is_main_process:
        torch.save(weights, folder / "weights.pt")
        report = outcome.progress._asdict() | {"saves": saves, "held_share": held_share}
        report |= {"resumed_at_step": outcome.resumed_at_step, "optimizer_bytes": outcome.optimizer_bytes}
        (folder / "outcome.json").write_text(json.dumps(report))
    torch.distributed.destroy_process_group()  # else Gloo's threads may abort the process, see launch.py


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3]))
