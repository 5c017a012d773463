import pytest
import torch

from deepcuts.components.core.examples import Example, Message
from deepcuts.components.training import scoring
from deepcuts.components.training.losses import CompletionLoss
from tests.training import tiny


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def plain_nats(model, ids: list[int], learned: list[int]) -> float:
    """Nats of the learned tokens of one sequence, with nothing but transformers."""
    with torch.inference_mode():
        scores = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return -sum(float(scores[i - 1, ids[i]]) for i in range(1, len(ids)) if learned[i])


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_answer_nats_are_those_of_each_example_alone_in_order(kind, monkeypatch):
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 200)
    data = tiny.rendered(11)
    found = scoring.answer_nats(CompletionLoss(tiny.model(kind)), data)
    model = tiny.model(kind).eval()
    wanted = [plain_nats(model, rendered.ids, rendered.mask) for rendered in data]
    assert [nats for nats, _ in found] == pytest.approx(wanted, rel=1e-4)
    assert [count for _, count in found] == [sum(rendered.mask) for rendered in data]


def test_a_pass_has_fewer_tokens_where_the_vocabulary_is_large_and_finds_the_same(monkeypatch):
    model, data = tiny.model(tiny.KINDS[0]), tiny.rendered(11)
    loss, longest = CompletionLoss(model), max(len(rendered.ids) for rendered in data)
    whole = scoring.answer_nats(loss, data)
    monkeypatch.setattr(scoring, "LOGIT_BYTES", 8 * loss.vocabulary * 2 * longest)
    sizes: list[int] = []

    def seen(module, args, given):
        sizes.append(given["input_ids"].numel())

    model.register_forward_pre_hook(seen, with_kwargs=True)
    found = scoring.answer_nats(loss, data)
    assert max(sizes) <= 2 * longest and len(sizes) > 3
    assert [nats for nats, _ in found] == pytest.approx([nats for nats, _ in whole], rel=1e-4)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_greedy_answers_in_a_padded_batch_are_those_of_one_by_one(kind):
    model, records = tiny.model(kind, tie_word_embeddings=False), tiny.sums(7)  # tied ones repeat a token
    together = scoring.greedy_answers(model, tiny.TOKENIZER, records, 6)
    alone = [scoring.greedy_answers(model, tiny.TOKENIZER, [record], 6)[0] for record in records]
    assert together == alone and len(set(together)) > 1


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_greedy_answers_end_at_the_context(kind):
    records = [
        Example(id="short", messages=(Message("user", "a"), Message("assistant", "b"))),
        Example(id="long", messages=(Message("user", "a" * (tiny.CONTEXT - 5)), Message("assistant", "b"))),
        Example(id="full", messages=(Message("user", "a" * tiny.CONTEXT), Message("assistant", "b"))),
    ]
    model, x = tiny.model(kind), tiny.TOKENIZER.convert_tokens_to_ids("x")
    only_x = torch.zeros(tiny.ROWS).index_fill_(0, torch.tensor([x]), 1e4)
    model.get_output_embeddings().register_forward_hook(lambda head, inputs, logits: logits + only_x)
    # <s>, the question and a line break leave room for 3 tokens
    assert scoring.greedy_answers(model, tiny.TOKENIZER, records, 20) == ["x" * 20, "xxx", ""]


@pytest.mark.parametrize(
    ("given", "wanted", "same"),
    [
        ("42", "42", True),
        (" a  b\n", "a b", True),
        ("4 2", "42", False),
        ("so 6*7 #### 42", "6 times 7 #### 42", True),
        ("#### 41 then #### 42", "#### 42", True),
        ("42", "#### 42", False),
        ("#### 41", "#### 42", False),
        ("Card lost", "card lost", False),
    ],
)
def test_same_answer(given, wanted, same):
    assert scoring.same_answer(given, wanted) == same


def test_batches_by_length_hold_everything_once_within_the_limit(monkeypatch):
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 20)
    lengths = [3, 9, 30, 4, 9, 1, 5]
    batches = list(scoring.by_length(lengths))
    assert sorted(i for batch in batches for i in batch) == list(range(7))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 20 for batch in batches)
    assert batches[0] == [2]
