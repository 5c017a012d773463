"""Labels in a tree score as each label alone, and few of their tokens are computed."""

import pytest
import torch

from deepcuts.components.training import label_choice, scoring
from deepcuts.components.training.label_choice import Question
from deepcuts.components.training.label_search import common_prefix
from deepcuts.components.training.token_row import TokenRow
from tests.training import tiny, zoo

LABELS = ["0", "1", "eleven", "one hundred and ten", "eleven and one", "one", "on", "one"]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def plain_nats(model, question: Question, label: int) -> float:
    """Nats of a label, with nothing but transformers."""
    ids = [*question.prompt, *question.tails[label]]
    with torch.inference_mode():
        scores = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return -sum(float(scores[place - 1, ids[place]]) for place in range(len(question.prompt), len(ids)))


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("documents", [False, True])
def test_labels_in_a_tree_score_as_each_alone(kind, documents, monkeypatch):
    monkeypatch.setattr(label_choice, "PASS_TOKENS", 20)  # of prompts of 5 to 7, a few at a time
    model = tiny.model(kind).eval()
    if documents:
        scoring.CompletionLoss(model)  # evaluate scores answers first, which changes the attention
    asked = list(label_choice.questions(tiny.TOKENIZER, tiny.sums(6), LABELS))
    assert label_choice.supports_trees(model, asked)
    row = TokenRow(model, asked[0].prompt[: common_prefix([one.prompt for one in asked])])
    for question in asked:
        with torch.inference_mode():
            found = label_choice.likeliest(row, [question], best=len(set(LABELS)))
        assert sorted(label for label, _ in found) == list(range(len(LABELS) - 1))
        wanted = [plain_nats(model, question, label) for label, _ in found]
        assert [nats for _, nats in found] == pytest.approx(wanted, rel=1e-5)
        assert wanted == sorted(wanted)
    chosen, tokens = label_choice.choose(model, asked)
    for question, label in zip(asked, chosen, strict=True):
        nats = [plain_nats(model, question, other) for other in range(len(LABELS))]
        assert nats[label] == pytest.approx(min(nats), rel=1e-5)
    assert tokens.computed < 0.6 * tokens.one_by_one


@pytest.mark.parametrize("passes", [512, 3])
def test_the_output_layer_sees_only_what_is_read_and_a_common_beginning_is_computed_once(passes, monkeypatch):
    model = tiny.model("llama").eval()
    prompts = [[7, 8, 9, *range(20, 28), 3], [7, 8, 9, *range(20, 28), 5]]
    asked = [Question(prompt, [[5, 6, 2], [5, 7, 2], [4, 2]]) for prompt in prompts]
    monkeypatch.setattr(label_choice, "PASS_TOKENS", passes)
    monkeypatch.setattr("deepcuts.components.training.token_row.PASS_TOKENS", passes)
    computed, read = [], []
    model.register_forward_pre_hook(
        lambda _, args, given: computed.append(given["input_ids"].numel()), with_kwargs=True
    )
    model.get_output_embeddings().register_forward_hook(lambda _, args, logits: read.append(logits.shape[1]))
    with torch.inference_mode():
        row = TokenRow(model, prompts[0][:11])
        found = [
            label
            for some in label_choice.together(asked, 11, passes)
            for label in label_choice.likeliest(row, some, 3)
        ]
    assert (
        row.computed == sum(computed) == 11 + 2 * (1 + 4)
    )  # a prompt's own token; 5, 6, 7 and 4 of the labels
    assert sum(read) == 2 * (1 + 4)
    wanted = [plain_nats(model, asked[place % 2], label) for place, (label, _) in enumerate(found)]
    assert [nats for _, nats in found] == pytest.approx(wanted, rel=1e-5)


def test_a_model_whose_attention_takes_no_tree_scores_labels_one_by_one():
    for model in (zoo.model_of("bloom"), zoo.model_of("lfm2"), tiny.model("llama").bfloat16()):
        asked = list(label_choice.questions(tiny.TOKENIZER, tiny.sums(2), LABELS))
        assert not label_choice.supports_trees(model, asked)
        _, tokens = label_choice.choose(model, asked)
        assert tokens.computed >= tokens.one_by_one


def test_prompts_beyond_a_sliding_window_are_scored_one_by_one():
    window = {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": 12}
    model = tiny.model("qwen2", **window).eval()
    (short,) = label_choice.questions(tiny.TOKENIZER, tiny.sums(1), ["1", "10"])
    long = Question([*short.prompt, *short.prompt, *short.prompt], short.tails)
    assert label_choice.supports_trees(model, [short]) and not label_choice.supports_trees(model, [long])
