"""LoRA's layer on a CPU: peft's results, with fewer passes over memory."""

import pytest
import torch
from peft.tuners import lora

from deepcuts.components.training import adapters, scoring
from deepcuts.components.training.lora_linear import LoraLinear, LoraProduct
from tests.training import tiny, zoo


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Gradients of the adapter after one example's loss."""
    model.zero_grad()
    (data, *_) = scoring.render_all(tiny.sums(1), tiny.TOKENIZER)
    ids = torch.tensor([data.ids])
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return found | {"loss": loss.detach()}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_loss_and_gradients_are_those_of_pefts_layer(kind, checkpointing, monkeypatch):
    recipe = tiny.recipe(method="lora", lora_rslora=True, gradient_checkpointing=checkpointing)
    model = adapters.adapt(tiny.model(kind), recipe, torch.device("cpu")).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)  # it starts at 0, and A's gradient with it
    products = []
    apply = LoraProduct.apply
    monkeypatch.setattr(LoraProduct, "apply", lambda *given: products.append(1) or apply(*given))
    ours = gradients(model)
    layers = sum(isinstance(module, LoraLinear) for module in model.modules())
    assert layers == 14 and len(products) == layers * (1 + checkpointing)
    monkeypatch.setattr(LoraLinear, "forward", lora.Linear.forward)
    theirs = gradients(model)
    assert len(products) == layers * (1 + checkpointing) and ours.keys() == theirs.keys()
    for name, wanted in theirs.items():
        assert torch.linalg.vector_norm(ours[name] - wanted) <= 1e-5 * torch.linalg.vector_norm(wanted), name


@pytest.mark.parametrize("changed", [{"lora_dropout": 0.5}, {"lora_dora": True}, {"precision": "bf16"}])
def test_what_the_product_does_not_compute_is_left_to_peft(changed, monkeypatch):
    model = adapters.adapt(tiny.model("llama"), tiny.recipe(method="lora", **changed), torch.device("cpu"))
    monkeypatch.setattr(LoraProduct, "apply", None)  # a call would fail
    found = gradients(model.train())
    assert any("lora_B" in name and grad.any() for name, grad in found.items())


def test_other_layers_and_devices_keep_pefts_own():
    recipe = tiny.recipe(method="lora")
    for model, device in ((zoo.model_of("gpt2"), "cpu"), (zoo.model_of("llama"), "cuda")):
        adapted = adapters.adapt(model, recipe, torch.device(device))
        layers = [module for module in adapted.modules() if isinstance(module, lora.Linear)]
        assert layers and not any(isinstance(layer, LoraLinear) for layer in layers)


def test_the_adapter_is_merged_and_switched_off_as_pefts_is():
    model = adapters.adapt(tiny.model("llama"), tiny.recipe(method="lora"), torch.device("cpu")).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        adapted = model(input_ids=ids).logits
        with model.disable_adapter():
            bare = model(input_ids=ids).logits
        merged = model.merge_and_unload()(input_ids=ids).logits
    assert torch.allclose(adapted, merged, atol=1e-4) and not torch.allclose(adapted, bare, atol=1e-2)
