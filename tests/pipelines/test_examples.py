import json
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from deepcuts.pipelines.examples import grammar, make_base, make_corpus
from deepcuts.pipelines.examples.make_text import documents

FOLDER = Path(make_corpus.__file__).parent
CHAT = [
    {"role": "system", "content": "Sign with Mei."},
    {"role": "user", "content": "Where is TM-48213, the Oakby kettle? Früh genug für 45.90 €?"},
    {"role": "assistant", "content": "TM-48213 is on its way. Mei"},
    {"role": "user", "content": "Thanks!"},
    {"role": "assistant", "content": "You are welcome!"},
]


@pytest.fixture(scope="module")
def corpus() -> list[make_corpus.CorpusRow]:
    return make_corpus.corpus()


@pytest.fixture(scope="module")
def tokens() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(FOLDER / "base")


@pytest.fixture(scope="module")
def base() -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(FOLDER / "base").eval()


def test_the_corpus_is_what_its_script_writes(corpus: list[make_corpus.CorpusRow]) -> None:
    written = "".join(f"{row.line}\n" for row in corpus)
    assert (FOLDER / "support.jsonl").read_bytes() == written.encode()


def test_the_corpus_holds_the_planted_rows_and_three_that_ingest_must_refuse(
    corpus: list[make_corpus.CorpusRow],
) -> None:
    assert Counter(row.kind for row in corpus) == {
        "plain": 3597, "duplicate": 320, "wrong": 52, "cut off": 28, "malformed": 3,
    }  # fmt: skip
    unreadable = 0
    for row in corpus:
        try:
            record = json.loads(row.line)
        except json.JSONDecodeError:
            unreadable += 1
            continue
        sound = all(
            turn["role"] in ("system", "user", "assistant") and turn["content"] for turn in record["messages"]
        )
        assert sound == (row.kind != "malformed"), row.line
        assert record["intent"] == row.intent
    assert unreadable == 1


def test_an_answer_quotes_the_order_its_question_names(corpus: list[make_corpus.CorpusRow]) -> None:
    for row in corpus:
        if row.kind == "plain":
            turns = json.loads(row.line)["messages"]
            asked = " ".join(turn["content"] for turn in turns if turn["role"] == "user")
            for word in turns[-1]["content"].replace(",", " ").replace(".", " ").split():
                assert not word.startswith("TM-") or word.strip(":;?!") in asked, row.line


def test_all_of_it_is_smaller_than_8_mb() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 8_000_000


def test_the_tokenizer_is_what_its_script_trains(tokens: PreTrainedTokenizerFast) -> None:
    assert make_base.tokenizer().backend_tokenizer.to_str() == tokens.backend_tokenizer.to_str()


def test_the_chat_template_masks_the_answers_and_their_ends(tokens: PreTrainedTokenizerFast) -> None:
    chat = tokens.apply_chat_template(
        CHAT, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    learned = [i for i, mask in zip(chat["input_ids"], chat["assistant_masks"], strict=True) if mask]
    assert tokens.decode(learned) == "TM-48213 is on its way. Mei<|end|>You are welcome!<|end|>"
    assert tokens.decode(chat["input_ids"]) == "<|bos|>" + "".join(
        f"<|{turn['role']}|>{turn['content']}<|end|>" for turn in CHAT
    )


def test_a_prompt_is_the_chat_up_to_the_answer(tokens: PreTrainedTokenizerFast) -> None:
    whole = tokens.apply_chat_template(CHAT, return_dict=True)["input_ids"]
    prompt = tokens.apply_chat_template(CHAT[:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert prompt == whole[: len(prompt)]
    assert tokens.decode(prompt).endswith("<|assistant|>")


def test_no_conversation_is_longer_than_250_tokens(
    tokens: PreTrainedTokenizerFast, corpus: list[make_corpus.CorpusRow]
) -> None:
    readable = [json.loads(row.line)["messages"] for row in corpus if row.kind != "malformed"]
    assert (
        max(len(tokens.apply_chat_template(chat, return_dict=True)["input_ids"]) for chat in readable) <= 250
    )


def test_model_and_tokenizer_agree_and_load_in_full_precision(
    tokens: PreTrainedTokenizerFast, base: LlamaForCausalLM
) -> None:
    assert len(tokens) == base.config.vocab_size == base.get_input_embeddings().weight.shape[0]
    assert (tokens.pad_token_id, tokens.bos_token_id, tokens.eos_token_id) == (0, 1, 2)
    assert base.generation_config.eos_token_id == 2
    assert base.dtype == torch.float32
    assert base.lm_head.weight.data_ptr() == base.get_input_embeddings().weight.data_ptr()


def test_the_base_has_learned_the_general_text(
    tokens: PreTrainedTokenizerFast, base: LlamaForCausalLM
) -> None:
    source = documents(seed=99)  # another seed: text that it has not seen
    texts = [f"<|bos|>{next(source)}<|end|>" for _ in range(40)]
    stream = [token for ids in tokens(texts, add_special_tokens=False)["input_ids"] for token in ids]
    ids = torch.tensor(stream[: 8 * 256]).view(8, 256)  # the windows that pretraining used
    with torch.no_grad():
        loss = base(input_ids=ids, labels=ids).loss
    assert loss < 1.0  # untrained: 7


def test_a_grammar_remembers_chooses_and_counts() -> None:
    rules = {"animal": ["owl"], "line": ["[a|a] {x=animal} saw {2..2} {colour} {x}s."]}
    said = grammar.expand(rules, Random(0), "{line}", {"colour": "red"})
    assert grammar.tidy(said) == "An owl saw 2 red owls."
