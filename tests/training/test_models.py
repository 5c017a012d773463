import pytest
import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.store import open_store
from deepcuts.components.training import adapters, loop, models
from deepcuts.components.training.batches import collate
from deepcuts.components.training.checkpoints import Checkpoints
from deepcuts.components.training.losses import CompletionLoss
from tests.training import tiny, zoo

CPU = torch.device("cpu")
TIED = ["qwen2", "gpt2"]
IDS = torch.randint(3, 200, (2, 24), generator=torch.Generator().manual_seed(0))
VARIANTS = {
    "plain": {},
    "rslora": {"lora_rslora": True},
    "dora": {"lora_dora": True},
    "attention only": {"lora_targets": "attention"},
    "embeddings too": {"trainable_embeddings": "yes"},
    "adapter only": {"trainable_embeddings": "no"},
    "new rows": {"trainable_embeddings": "no", "new_token_ids": [200, 1, 1]},
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def adapted(kind: str, method: str = "lora", **changed):
    return adapters.adapt(tiny.model(kind), tiny.recipe(method=method, **changed), CPU)


def train_a_little(model, steps: int = 2) -> None:
    optimizer = torch.optim.AdamW(models.trainable(model).values(), lr=0.02)
    loss = CompletionLoss(model)
    for _ in range(steps):
        loss(*collate([[0, 1, 2]], tiny.rendered(3), 90)).backward()
        optimizer.step()
        optimizer.zero_grad()


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_saved_and_merged_adapter_gives_the_logits_it_was_trained_to(tmp_path, kind, variant):
    base = tiny.base(tmp_path / "base", kind)
    network, tokenizer = models.load_base(base)
    model = adapters.adapt(network, tiny.recipe(method="lora", **VARIANTS[variant]), CPU)
    train_a_little(model)
    wanted = logits(model)
    assert (wanted - logits(models.load_base(base)[0])).abs().max() > 0.01
    models.save(model, tokenizer, base, tmp_path / "adapter", torch.float32)
    merged, _ = models.load(tmp_path / "adapter", base)
    assert torch.allclose(logits(merged), wanted, atol=1e-4)
    assert models.is_tied(merged) == (kind in TIED)
    merged.save_pretrained(tmp_path / "whole")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    assert torch.allclose(logits(again), wanted, atol=1e-4)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("kind", TIED)
def test_tied_embeddings_stay_tied_and_move_together(kind, method):
    model = adapted(kind, method, trainable_embeddings="yes")
    before = model.get_output_embeddings().weight.detach().clone()
    train_a_little(model)
    inside = model.get_base_model() if method == "lora" else model
    one, other = inside.get_input_embeddings(), inside.get_output_embeddings()
    assert not torch.equal(other.weight, before)
    tokens = torch.arange(tiny.ROWS)
    assert torch.equal(one(tokens), other.weight)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_frozen_weights_do_not_move_and_all_trained_ones_do(kind):
    model = adapted(kind, trainable_embeddings="no")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train_a_little(model)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(models.trainable(model)) and all("lora_" in name for name in moved)


@pytest.mark.parametrize(
    ("kind", "chosen", "trains"),
    [("qwen2", "auto", True), ("llama", "auto", False), ("llama", "yes", True), ("qwen2", "no", False)],
)
def test_embeddings_train_where_tied_and_small_or_asked_for(kind, chosen, trains):
    names = models.trainable(adapted(kind, trainable_embeddings=chosen))
    assert any(weight.shape == (tiny.ROWS, 32) for weight in names.values()) == trains
    assert any("norm" in name for name in names) == trains


def test_a_large_tied_vocabulary_is_not_trained_by_itself(monkeypatch):
    monkeypatch.setattr(adapters, "SMALL_VOCABULARY", tiny.ROWS - 1)
    found = models.trainable(adapted("qwen2")).values()
    assert not any(weight.shape == (tiny.ROWS, 32) for weight in found)


def test_trained_share_counts_a_tied_matrix_once():
    assert models.count_weights(tiny.model("qwen2")) == (count("qwen2"), count("qwen2"))
    every, trained = models.count_weights(
        adapted("llama", trainable_embeddings="no", lora_targets=["q_proj"])
    )
    assert trained == 2 * 4 * (32 + 32)  # two layers, rank 4, 32 in and 32 out
    assert every == count("llama") + trained


def count(kind: str) -> int:
    return sum(p.numel() for p in tiny.model(kind).parameters())


def test_trained_weights_are_float32_even_when_the_base_is_not():
    half = tiny.model("qwen2").to(torch.bfloat16)
    model = adapters.adapt(half, tiny.recipe(method="lora", precision="bf16"), CPU)
    assert {p.dtype for p in models.trainable(model).values()} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    full = adapters.adapt(tiny.model("llama").to(torch.bfloat16), tiny.recipe(method="full"), CPU)
    assert {p.dtype for p in full.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_full_model_survives_save_and_load(tmp_path, kind):
    base = tiny.base(tmp_path / "base", kind)
    network, tokenizer = models.load_base(base)
    model = adapters.adapt(network, tiny.recipe(method="full"), CPU)
    train_a_little(model)
    wanted = logits(model)
    models.save(model, tokenizer, base, tmp_path / "model", torch.float32)
    again, same = models.load(tmp_path / "model", base)
    assert torch.equal(logits(again), wanted) and same.get_vocab() == tokenizer.get_vocab()
    assert not list(tmp_path.glob(".staging-*"))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_scratch_models_differ_by_seed_and_know_nothing_of_the_base(tmp_path, kind):
    base = tiny.base(tmp_path, kind)
    first, again, other = (logits(models.from_scratch(base, seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not torch.allclose(first, logits(AutoModelForCausalLM.from_pretrained(base)))


def test_a_folder_that_asks_for_its_own_code_is_refused(tmp_path):
    base = tiny.base(tmp_path)
    text = (base / "config.json").read_text()
    (base / "config.json").write_text(
        text.replace("{", '{"auto_map": {"AutoModel": "evil.Model"},', 1).replace('"llama"', '"evil"')
    )
    with pytest.raises(DataError, match="auto_map"):
        models.load_base(base)


def test_bf16_is_chosen_only_where_it_is_fast_or_asked_for():
    assert models.resolve_precision("auto", CPU) is torch.float32
    assert models.resolve_precision("bf16", CPU) is torch.bfloat16


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("frozen", [["embeddings"], ["layers"]])
def test_frozen_parts_do_not_move_and_the_rest_does(tmp_path, kind, frozen):
    recipe = tiny.recipe(frozen=frozen, weight_decay=0.1)
    model = adapters.adapt(tiny.model(kind), recipe, torch.device("cpu"))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    held = adapters.frozen_digest(model)
    kept = Checkpoints(open_store(tmp_path.as_uri()), "frozen", 1)
    loop.train(CompletionLoss(model), tiny.rendered(30), recipe, Accelerator(cpu=True), kept)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    still = {id(p) for module in adapters.parts(model, frozen) for p in module.parameters()}
    assert moved == {name for name, p in model.named_parameters() if id(p) not in still}
    assert adapters.frozen_digest(model) == held


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_of_a_large_vocabulary_only_the_rows_of_new_tokens_are_trained(monkeypatch, kind, tied):
    monkeypatch.setattr(adapters, "SMALL_VOCABULARY", tiny.ROWS - 1)
    network = tiny.model(kind, tie_word_embeddings=tied)
    embeddings = [network.get_input_embeddings(), network.get_output_embeddings()]
    before = [module.weight.detach().clone() for module in embeddings]
    new = [tiny.TOKENIZER.eos_token_id, 260]
    model = adapters.adapt(network, tiny.recipe(method="lora", new_token_ids=new), CPU)
    _, trained = models.count_weights(model)
    _, without = models.count_weights(adapted(kind, trainable_embeddings="no"))
    assert trained - without == (1 if tied else 2) * 2 * 32
    train_a_little(model)
    wanted = logits(model)
    merged = models.merge(model)
    assert torch.allclose(logits(merged), wanted, atol=1e-4) and models.is_tied(merged) == tied
    after = [merged.get_input_embeddings().weight, merged.get_output_embeddings().weight]
    for old, now in zip(before, after, strict=True):
        moved = (old != now).any(1).nonzero()[:, 0].tolist()
        assert moved and set(moved) <= set(new)


def test_new_rows_are_trained_in_float32_on_a_base_that_is_not():
    half = tiny.model("llama").to(torch.bfloat16)
    recipe = tiny.recipe(method="lora", precision="bf16", new_token_ids=[260])
    model = adapters.adapt(half, recipe, CPU)
    assert {p.dtype for p in models.trainable(model).values()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        train_a_little(model)


def test_a_small_tied_vocabulary_is_trained_whole_though_tokens_are_new():
    found = models.trainable(adapted("qwen2", new_token_ids=[260]))
    assert any(weight.shape == (tiny.ROWS, 32) for weight in found.values())
    assert not any("token_adapter" in name for name in found)


def test_a_new_token_without_a_row_is_refused():
    with pytest.raises(ValueError, match=f"new_token_ids: {tiny.ROWS} is not below this model's {tiny.ROWS}"):
        adapted("llama", new_token_ids=[3, tiny.ROWS])


def test_a_base_in_4_bits_is_refused_where_it_cannot_run(monkeypatch):
    recipe = tiny.recipe(method="lora", base_precision="nf4")
    with pytest.raises(ValueError, match="nf4 needs a CUDA device, this one is cpu"):
        models.four_bits(recipe, CPU)
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs bitsandbytes"):
        models.four_bits(recipe, torch.device("cuda"))
    assert models.four_bits(tiny.recipe(method="lora"), CPU) is None


def test_a_base_in_4_bits_takes_a_fraction_and_an_adapter_learns_on_it(tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes, of the extra cuda, is not installed")
    base = tiny.base(tmp_path, hidden_size=64, intermediate_size=128)
    network, _ = models.load_base(base, torch.float32)
    whole, _ = models.load_base(base)
    blocks, full = network.model.layers, whole.model.layers
    assert models.weight_bytes(blocks) < 0.2 * models.weight_bytes(full)
    assert models.count_weights(blocks)[0] == models.count_weights(full)[0]
    model = adapters.adapt(network, tiny.recipe(method="lora", base_precision="nf4"), CPU)
    still = adapters.frozen_digest(model)
    train_a_little(model.train())
    assert adapters.frozen_digest(model) == still
    assert all(p.any() for name, p in models.trainable(model).items() if "lora_B" in name)  # they begin as 0


def test_a_model_that_was_scored_is_saved_as_it_was_trained(tmp_path):
    """RWKV halves its own weights in place while it scores, every few blocks."""
    base = zoo.base_of(tmp_path / "base", "rwkv", rescale_every=1)
    network, tokenizer = models.load_base(base)
    ids = torch.arange(3, 15)[None]
    wanted = network(input_ids=ids, use_cache=False).logits
    models.save(network, tokenizer, base, tmp_path / "saved", torch.float32)
    again, _ = models.load_base(tmp_path / "saved")
    assert torch.allclose(again(input_ids=ids, use_cache=False).logits, wanted, atol=1e-5)
    before = AutoModelForCausalLM.from_pretrained(base).state_dict()
    assert all(torch.equal(weight, before[name]) for name, weight in again.state_dict().items())
