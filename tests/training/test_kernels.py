"""Liger's kernels: where they stay off."""

import torch

from deepcuts.components.training.kernels import fuse
from tests.training import tiny


def test_a_model_that_is_to_be_sharded_goes_without_and_so_keeps_its_packing():
    assert fuse(tiny.model("llama"), torch.device("cuda"), sharded=True) == "off: not with sharded weights"
    assert fuse(tiny.model("llama"), torch.device("cpu"), sharded=False) == "off: no CUDA device"
