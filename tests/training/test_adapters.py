"""What a LoRA adapter is put on, over mixtures of experts, state-space layers and multimodal folders."""

import json

import pytest
import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM, Gemma3Config

from deepcuts.components.core.store import FileStore
from deepcuts.components.plan import sizes
from deepcuts.components.training import adapters, blocks, loop, models, scoring
from deepcuts.components.training.checkpoints import Checkpoints
from deepcuts.components.training.losses import CompletionLoss
from tests.training import tiny, zoo
from tests.training.test_render import CHATML, byte_tokenizer

LORA = tiny.recipe(method="lora", trainable_embeddings="no", budget_tokens=512, tokens_per_step=128)


def adapted_layers(kind: str, **changed) -> set[str]:
    model = adapters.adapt(
        zoo.model_of(kind), tiny.recipe(**{"method": "lora"} | changed), torch.device("cpu")
    )
    names = {name.partition(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name}
    return {name.rsplit(".", 1)[-1] for name in names}


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe", "gpt_oss", "llama4_text", "glm4_moe", "jamba"])
def test_no_router_is_adapted_and_fused_experts_are_named(kind):
    model = zoo.model_of(kind)
    assert not adapted_layers(kind) & adapters.ROUTERS
    assert {"q_proj", "o_proj"} <= adapted_layers(kind)
    assert "fused expert weights" in adapters.left_out(model)


def test_every_linear_layer_of_a_dense_block_is_adapted():
    assert adapted_layers("llama") == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    assert adapted_layers("gpt2") == {"c_attn", "c_proj", "c_fc"}
    assert adapters.left_out(zoo.model_of("llama")) == ""


@pytest.mark.parametrize("kind", ["falcon_h1", "mamba2", "nemotron_h", "mamba", "jamba", "bamba", "zamba2"])
def test_layers_whose_weight_is_read_past_them_are_left_alone_and_a_refusal_names_them(kind):
    layers = adapted_layers(kind)
    assert "in_proj" in layers and not {"out_proj", "dt_proj"} & layers
    assert "whose weights its kernels read themselves" in adapters.left_out(zoo.model_of(kind))
    with pytest.raises(ValueError, match="'out_proj' is not a layer .* choose from .*'in_proj'"):
        adapted_layers(kind, lora_targets=["out_proj"])


def test_a_type_without_attention_says_what_else_there_is():
    with pytest.raises(ValueError, match="lora_targets attention: this model has no such layer.*in_proj"):
        adapted_layers("mamba2", lora_targets="attention")


def test_a_multimodal_folder_trains_its_text_and_is_released_whole(tmp_path):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = zoo.config_of("gemma3_text", tie_word_embeddings=True).to_dict()
    config = Gemma3Config(text_config=text, vision_config=vision | {"image_size": 28, "patch_size": 14})
    base = tmp_path / "base"
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(base)
    byte_tokenizer(CHATML).save_pretrained(base)
    (base / "preprocessor_config.json").write_text("{}")
    network, tokenizer = models.load_base(base)
    tower = {name: weight.clone() for name, weight in network.named_parameters() if "vision_tower" in name}
    assert adapters.left_out(network) == "the vision tower, the multi modal projector"
    assert sizes.tree((base / "config.json").read_text()).layers == 2
    adapted = adapters.adapt(network, LORA, torch.device("cpu"))
    assert not [name for name, _ in adapted.named_parameters() if "lora" in name and "vision" in name]
    loss, data = CompletionLoss(adapted), scoring.render_all(tiny.sums(20), tokenizer)
    checkpoints = Checkpoints(FileStore(tmp_path / "store"), "run", 1)
    loop.train(loss, data, LORA, Accelerator(), checkpoints, say=lambda text: None)
    models.save(adapted, tokenizer, base, tmp_path / "adapter", torch.float32)
    merged, _ = models.load(tmp_path / "adapter", base)
    models.save(merged, tokenizer, base, tmp_path / "whole", torch.float32)
    whole, _ = models.load_base(tmp_path / "whole")
    weights = dict(whole.named_parameters())
    assert all(torch.equal(weight, weights[name]) for name, weight in tower.items())
    assert scoring.mean_nats(CompletionLoss(whole), data) == pytest.approx(
        scoring.mean_nats(loss, data), abs=1e-3
    )
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["model_type"] == "gemma3"
    assert (tmp_path / "whole" / "preprocessor_config.json").exists()


def test_an_adapter_keeps_off_layers_that_only_choose_tokens():
    network = zoo.model_of("deepseek_v32")
    assert any(".indexer." in name for name, _ in network.named_modules())
    assert not [name for name in adapters.adaptable(network) if ".indexer." in name]
    assert "the indexers" in adapters.left_out(network)


@pytest.mark.parametrize(
    ("kind", "layer"), [("openai-gpt", "c_attn"), ("ctrl", "Wq"), ("cpmant", "project_q")]
)
def test_types_that_mark_no_blocks_are_adapted_and_never_recomputed(kind, layer):
    network = zoo.model_of(kind)
    assert any(name.endswith(layer) for name in adapters.adaptable(network)) and not blocks.recomputes(
        network
    )
    with pytest.raises(ValueError, match="gradient_checkpointing: transformers cannot recompute blocks"):
        adapters.adapt(network, tiny.recipe(method="full", gradient_checkpointing=True), torch.device("cpu"))
