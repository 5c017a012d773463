from kfp import dsl

from deepcuts.components.core.container import container


@dsl.container_component
def quantize(
    base: dsl.Input[dsl.Model],
    model: dsl.Input[dsl.Model],
    text: dsl.Input[dsl.Dataset],
    split: dsl.Input[dsl.Dataset],
    chosen: dsl.Output[dsl.Model],
    summary: dsl.Output[dsl.Markdown],
    receipt: dsl.Output[dsl.Metrics],
    serve_on: str,
    candidates: list,
    objective: str,
    margin_nats: float,
    group_size: int,
    calibration_tokens: int,
    max_examples: int,
    seed: int,
):
    """Store a model in the cheapest number format that keeps its quality, measured where this runs.

    Args:
        base: The base of an adapter; for a whole model, the model itself.
        model: An adapter (merged first) or a whole model.
        text: Examples for measuring scales and errors (JSONL); never the test split.
        split: Examples to judge formats on (JSONL); not the test split, which accept needs.
        chosen: The quantized model, or the original if no format pays off.
        summary: Every format with bytes, time and loss.
        receipt: What it took; cut_quantize says what was chosen and why.
        serve_on: Kind of node for serving: cpu (llama.cpp) or gpu (vLLM).
        candidates: Formats to try; [auto] for those of serve_on, [off] for none. gguf-q8_0, gguf-q4_k_m;
            w8a8, smoothquant-w8a8, fp8, w4a16, gptq-w4a16, awq-w4a16 (made on a GPU), nvfp4.
        objective: What cheap means: bytes, latency (batch 1) or throughput (batch 16).
        margin_nats: Largest rise of the completion loss that counts as equal quality.
        group_size: Columns that share a scale in 4-bit formats: 32, 64 or 128.
        calibration_tokens: Maximum tokens of text for formats that need it.
        max_examples: Score at most this many examples of the split.
        seed: Seed for text, examples and the bootstrap.
    """
    return container(
        "deepcuts.components.quantize.step",
        image="train",
        receipt=receipt,
        base=base.path,
        model=model.path,
        text=text.path,
        split=split.path,
        chosen=chosen.path,
        summary=summary.path,
        serve_on=serve_on,
        candidates=candidates,
        objective=objective,
        margin_nats=margin_nats,
        group_size=group_size,
        calibration_tokens=calibration_tokens,
        max_examples=max_examples,
        seed=seed,
    )
