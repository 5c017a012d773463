"""Make base/: a tokenizer and a Llama of one million weights, pretrained on the text of make_text.

    python -m deepcuts.pipelines.examples.make_base

About 12 minutes on one core. Text and tokenizer come out the same everywhere, the weights only where torch
and the CPU add floats in the same order.
"""

import json
import math
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from deepcuts.pipelines.examples.make_text import documents

BASE = Path(__file__).parent / "base"
SPECIAL = ("<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
VOCABULARY = 1024
CONTEXT = 512

# One line, as white space between the tags would be learned, too. An answer includes its <|end|>, which stops
# it. Functions are JSON in a system turn, calls are JSON after the answer's text.
CHAT_TEMPLATE = (
    "{{- bos_token }}{%- if tools %}{{- '<|system|>' + (tools | tojson) + '<|end|>' }}{%- endif %}"
    "{%- for message in messages %}{{- '<|' + message['role'] + '|>' }}"
    "{%- if message['role'] == 'assistant' %}{% generation %}{{- message['content'] }}"
    "{%- for call in message['tool_calls'] or [] %}{{- call['function'] | tojson }}{%- endfor %}"
    "{{- '<|end|>' }}{% endgeneration %}"
    "{%- else %}{{- message['content'] + '<|end|>' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Train byte-level BPE with digits as single tokens, so that order numbers are copied, not memorised."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(islice(documents(), 12_000), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|pad|>",
        bos_token="<|bos|>",
        eos_token="<|end|>",
        extra_special_tokens=list(SPECIAL[3:]),
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def model_config() -> LlamaConfig:
    """Return the config of the example's model."""
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.05,  # 300 steps: loss 1.42, with the default 0.02 1.92, with 0.09 1.86
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def rows(tokens: PreTrainedTokenizerFast, count: int, length: int) -> Iterator[torch.Tensor]:
    """Yield concatenated documents cut into batches (count, length + 1), without repetition."""
    stream, size = torch.empty(0, dtype=torch.long), count * (length + 1)
    source = documents()
    while True:
        texts = [f"<|bos|>{document}<|end|>" for document in islice(source, 2000)]
        ids = [token for line in tokens(texts, add_special_tokens=False)["input_ids"] for token in line]
        stream = torch.cat([stream, torch.tensor(ids)])
        while len(stream) >= size:
            yield stream[:size].view(count, length + 1)
            stream = stream[size:]


def pretrain(
    model: LlamaForCausalLM, batches: Iterator[torch.Tensor], steps: int, rate: float, log_every: int = 100
) -> None:
    """Train with AdamW: warm-up over 4 % of the steps, then cosine down to a tenth of ``rate``."""
    matrices = [weight for weight in model.parameters() if weight.ndim == 2]
    norms = [weight for weight in model.parameters() if weight.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}],
        lr=rate,
        betas=(0.9, 0.98),
    )
    warmup, start = max(1, steps // 25), time.monotonic()
    for step, batch in enumerate(islice(batches, steps)):
        progress = max(0.0, (step - warmup) / (steps - warmup))
        scale = min(1.0, (step + 1) / warmup) * (0.55 + 0.45 * math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = rate * scale
        logits = model(input_ids=batch[:, :-1]).logits
        loss = cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % log_every == 0 or step == steps - 1:
            print(f"step {step} loss {loss.item():.4f} seconds {time.monotonic() - start:.0f}", flush=True)


def save(model: LlamaForCausalLM, tokens: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save the model in half precision.

    The config says float32, so that ``from_pretrained`` does not compute in half precision on a CPU. The
    tokenizer's config is written in terms that transformers 4 also knows.
    """
    tokens.save_pretrained(folder, save_jinja_files=False)
    amend(
        folder / "tokenizer_config.json",
        drop=("backend", "extra_special_tokens"),
        tokenizer_class="PreTrainedTokenizerFast",
        additional_special_tokens=list(SPECIAL[3:]),
    )
    model.half().save_pretrained(folder)
    amend(folder / "config.json", dtype="float32")
    (folder / "model.safetensors").chmod(0o644)


def amend(path: Path, drop: tuple[str, ...] = (), **values: object) -> None:
    """Rewrite a JSON file without ``drop`` and with ``values``."""
    kept = {key: value for key, value in json.loads(path.read_text()).items() if key not in drop}
    path.write_text(json.dumps(kept | values, indent=2) + "\n")


def main(steps: int = 2000, folder: Path = BASE) -> None:
    """Pretrain the example's model and save it."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tokens, model = tokenizer(), LlamaForCausalLM(model_config())
    # Small batches, 2,048 tokens: after 1.2 million tokens the loss is 0.98, with 4,096 1.42.
    pretrain(model, rows(tokens, count=8, length=256), steps, rate=3e-3)
    save(model, tokens, folder)


if __name__ == "__main__":
    main()
