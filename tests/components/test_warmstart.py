"""Warmstart: rows by string, blocks by depth, and a trial that may say no."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.store import open_store
from deepcuts.components.training import loop
from deepcuts.components.training.blocks import blocks_of
from deepcuts.components.training.checkpoints import Checkpoints
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.warmstart import transfer
from deepcuts.components.warmstart.step import warmstart
from tests.training import tiny

torch.set_num_threads(1)


def same(ours, theirs) -> bool:
    left, right = ours.state_dict(), theirs.state_dict()
    return all(torch.equal(left[name], right[name]) for name in left)


def test_overlap_pairs_tokens_by_text_and_not_by_id():
    shared = transfer.overlap({"a": 0, "b": 1, "new": 2}, {"b": 0, "a": 5, "old": 7})
    assert shared.pairs == [(0, 5), (1, 0)] and shared.share == pytest.approx(2 / 3)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_copy_embeddings_moves_the_shared_rows_and_no_other(kind):
    donor = tiny.model(kind, seed=1)
    model = transfer.build(donor, {}, 50, seed=0)
    before = model.get_input_embeddings().weight.clone()
    transfer.copy_embeddings(model, donor, transfer.Overlap([(3, 40), (4, 7)], 50), rescale=False)
    after, source = model.get_input_embeddings().weight, donor.get_input_embeddings().weight
    assert torch.equal(after[3], source[40]) and torch.equal(after[4], source[7])
    assert torch.equal(after[5:], before[5:]) and torch.equal(after[:3], before[:3])
    head, wanted = model.get_output_embeddings().weight, donor.get_output_embeddings().weight
    assert torch.equal(head[3], wanted[40])


def test_rescaled_rows_have_the_spread_of_random_ones():
    donor = tiny.model("llama")
    donor.get_input_embeddings().weight.data *= 9
    model = transfer.build(donor, {}, tiny.ROWS, seed=1)
    spread = model.get_input_embeddings().weight.detach().std()
    pairs = [(row, row) for row in range(tiny.ROWS)]
    transfer.copy_embeddings(model, donor, transfer.Overlap(pairs, tiny.ROWS), rescale=True)
    assert model.get_input_embeddings().weight.detach().std() == pytest.approx(spread.item(), rel=1e-4)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_stack_repeats_the_donors_blocks_and_copy_fills_the_first(kind):
    donor = tiny.model(kind, seed=1)
    depth = "n_layer" if kind == "gpt2" else "num_hidden_layers"
    stacked = transfer.build(donor, {depth: 4}, tiny.ROWS, seed=0)
    assert transfer.copy_layers(stacked, donor, "stack") == 4
    theirs = blocks_of(donor)
    assert all(same(block, theirs[n % 2]) for n, block in enumerate(blocks_of(stacked)))
    copied = transfer.build(donor, {depth: 4}, tiny.ROWS, seed=0)
    assert transfer.copy_layers(copied, donor, "copy") == 2
    ours = blocks_of(copied)
    assert same(ours[1], theirs[1]) and not same(ours[2], theirs[0])


def test_a_copy_of_everything_computes_what_the_donor_computes():
    donor = tiny.model("llama", seed=1)
    model = transfer.build(donor, {}, tiny.ROWS, seed=0)
    transfer.copy_layers(model, donor, "copy")
    pairs = [(row, row) for row in range(tiny.ROWS)]
    transfer.copy_embeddings(model, donor, transfer.Overlap(pairs, tiny.ROWS), rescale=False)
    ids = torch.arange(12)[None]
    assert torch.equal(model(input_ids=ids).logits, donor(input_ids=ids).logits)


def run(tmp_path: Path, **changed):
    """The facts and the model's folder."""
    values = {
        "donor": tiny.base(tmp_path / "donor", "llama", 1),
        "train": tiny.write_sums(tmp_path / "train", 40),
        "valid": tiny.write_sums(tmp_path / "valid", 12, seed=5),
        "model": tmp_path / "model",
        "report": tmp_path / "report.md",
        "store": (tmp_path / "store").as_uri(),
        "shape": {},
        "layers": "copy",
        "rescale": False,
        "trial_share": 0.5,
        "recipe": tiny.recipe(),
    }
    values["tokenizer"] = values["donor"]
    return warmstart(**values | changed), tmp_path / "model"


def trained(folder: Path) -> Path:
    """A donor that has learned its sums: warm must win."""
    model, recipe = tiny.model("llama", 1), tiny.recipe(budget_tokens=6000)
    kept = Checkpoints(open_store((folder / "kept").as_uri()), "donor", 1)
    loop.train(CompletionLoss(model), tiny.rendered(40), recipe, Accelerator(cpu=True), kept)
    model.save_pretrained(folder / "good")
    tiny.TOKENIZER.save_pretrained(folder / "good")
    return folder / "good"


def test_a_good_donor_is_accepted_and_its_weights_go_on_untrained(tmp_path):
    donor = trained(tmp_path)
    facts, model = run(tmp_path, donor=donor, tokenizer=donor)
    assert facts["accepted"] and facts["warm_loss"] < facts["cold_loss"] and facts["worse_by_high"] < 0
    assert facts["overlap_share"] == 1 and facts["filled_blocks"] == 2 and facts["tokens"] == 2000
    written, given = (AutoModelForCausalLM.from_pretrained(folder) for folder in (model, donor))
    ids = torch.arange(12)[None]  # spare rows, which no token has, stay random: only tokens are compared
    tokens = len(tiny.TOKENIZER)
    assert torch.equal(written(input_ids=ids).logits[..., :tokens], given(input_ids=ids).logits[..., :tokens])
    assert "applied" in (tmp_path / "report.md").read_text()


def test_a_donor_that_misleads_is_refused_and_the_cold_model_goes_on(tmp_path):
    donor = tiny.model("llama", 1)
    donor.get_input_embeddings().weight.data *= 60  # rows far too large for the blocks
    donor.get_output_embeddings().weight.data *= 60
    donor.save_pretrained(tmp_path / "bad")
    tiny.TOKENIZER.save_pretrained(tmp_path / "bad")
    facts, model = run(tmp_path, donor=tmp_path / "bad", tokenizer=tmp_path / "bad", layers="none")
    assert not facts["accepted"] and str(facts["cut_warmstart"]).startswith("refused")
    written = AutoModelForCausalLM.from_pretrained(model)
    assert same(written, transfer.build(donor, {}, tiny.ROWS, seed=0))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"recipe": tiny.recipe(method="lora")}, "set it to full"),
        ({"recipe": tiny.recipe(budget_seconds=60.0)}, "bound the trial by trial_share"),
        ({"shape": {"hiden_size": 3}}, "'hiden_size' is not in the donor's config"),
        ({"shape": {"hidden_size": 48}}, "keep the donor's widths"),
        ({"layers": "stack"}, "makes nothing deeper"),
        ({"shape": {"hidden_size": 48}, "layers": "none"}, "rows cannot be copied"),
    ],
)
def test_shapes_that_do_not_go_together_are_refused(tmp_path, changed, words):
    with pytest.raises(ValueError, match=words):
        run(tmp_path, **changed)
    assert not (tmp_path / "model").exists()


def test_an_empty_valid_split_is_refused(tmp_path):
    (tmp_path / "none").write_text("")
    with pytest.raises(DataError, match="the trial is judged by it"):
        run(tmp_path, valid=tmp_path / "none")
