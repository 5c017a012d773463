"""CompletionLoss and the attention under it: packed rows give what each example gives alone."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from deepcuts.components.training import attention
from deepcuts.components.training.batches import IGNORE, collate, pack
from deepcuts.components.training.losses import CompletionLoss
from tests.training import tiny

WINDOWED = {"use_sliding_window": True, "max_window_layers": 0}
MODELS = {
    **{kind: (kind, {}) for kind in tiny.KINDS},
    "window shorter than an example": ("qwen2", WINDOWED | {"sliding_window": 7}),
    "window longer than an example": ("qwen2", WINDOWED | {"sliding_window": 60}),
}
PATHS = ["documents", "transformers' mask"]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def make(name: str, path: str) -> CompletionLoss:
    kind, changed = MODELS[name]
    if path != "documents":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(attention, "use_documents", lambda model: False)
            return CompletionLoss(tiny.model(kind, **changed))
    return CompletionLoss(tiny.model(kind, **changed))


def alone(name: str, data) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Nats of each example and the summed gradient, with nothing but transformers."""
    kind, changed = MODELS[name]
    model, nats = tiny.model(kind, **changed), []
    for rendered in data:
        ids = torch.tensor([rendered.ids])
        labels = torch.where(torch.tensor([rendered.mask]) == 1, ids, -100)
        loss = model(input_ids=ids, labels=labels).loss * sum(rendered.mask[1:])
        loss.backward()
        nats.append(float(loss))
    return nats, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", MODELS)
def test_packed_loss_and_gradient_are_those_of_each_example_alone(name, path):
    data = tiny.rendered(9)
    lengths = [len(rendered.ids) for rendered in data]
    assert max(lengths) > 7
    rows = pack(range(len(data)), lengths, 64)
    assert max(map(len, rows)) > 1
    batch = collate(rows, data, 70)  # filler at the end of every row
    loss = make(name, path)
    nats, rows_of = loss.token_nats(*batch), (batch.targets != IGNORE).nonzero()
    nats.sum().backward()
    wanted, gradients = alone(name, data)
    starts = {}
    for row, examples in enumerate(rows):
        start = 0
        for example in examples:
            starts[example] = (row, start, start + lengths[example])
            start += lengths[example]
    for example, (row, start, end) in starts.items():
        mine = (rows_of[:, 0] == row) & (rows_of[:, 1] >= start) & (rows_of[:, 1] < end)
        assert float(nats[mine].detach().sum()) == pytest.approx(wanted[example], rel=1e-4), example
    for parameter, gradient in gradients.items():
        found = loss.model.get_parameter(parameter).grad
        assert torch.allclose(found, gradient, rtol=1e-3, atol=1e-4), parameter


def test_a_short_window_matters():
    data = tiny.rendered(3)
    short, full = alone("window shorter than an example", data)[0], alone("qwen2", data)[0]
    assert abs(short[2] - full[2]) > 1e-3


def test_both_attention_paths_are_really_taken():
    loss = make("llama", "documents")
    assert loss.model.config._attn_implementation == attention.NAME
    assert make("llama", "other").model.config._attn_implementation == "sdpa"


def test_block_without_targets_costs_nothing_and_has_a_gradient_of_zero():
    loss = CompletionLoss(tiny.model("llama"))
    value = loss(*collate([[]], [], 1))
    value.backward()
    assert float(value.detach()) == 0
    assert all(p.grad is None or not p.grad.any() for p in loss.parameters())


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_the_model_itself_still_answers_as_before(tmp_path, kind):
    base = tiny.base(tmp_path, kind)
    plain = AutoModelForCausalLM.from_pretrained(base)
    wrapped = CompletionLoss(AutoModelForCausalLM.from_pretrained(base)).model
    ids = torch.randint(0, 200, (2, 20), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(plain(input_ids=ids).logits, wrapped(input_ids=ids).logits, atol=1e-5)
    assert wrapped(input_ids=ids).logits.shape == (2, 20, tiny.ROWS)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_gradient_checkpointing_changes_no_gradient(kind):
    batch = collate([[0, 1, 2]], tiny.rendered(3), 90)
    gradients = []
    for on in (False, True):
        model = tiny.model(kind)
        if on:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        loss = CompletionLoss(model).train()
        loss(*batch).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
