"""Map settings of other training tools to ours.

Covers names from transformers and TRL (``num_train_epochs``), LLaMA-Factory (``cutoff_len``), Axolotl
(``sequence_len``), Unsloth (``r``) and litgpt (``micro_batch_size``).
"""

EPOCHS = (
    "training is counted in tokens: set recipe.budget_tokens to epochs x the tokens deepcuts preview counts"
)
STEP = "set recipe.tokens_per_step, the tokens of one optimizer step over all devices and micro-batches"
BATCH = "set recipe.micro_batch_size, the rows of one forward pass on a device"
LENGTH = "set recipe.seq_len, the tokens of a row, and max_tokens, those of the longest example"
BASE = "set base_uri: a folder, org/name of the hub, or s3://"
DATA = "set data_uri: a file, a folder, org/name of a data set, or s3://"
PRECISION = "set recipe.precision to auto, bf16 or fp32"
FOUR_BITS = "set recipe.base_precision to nf4 (an adapter on a 4-bit base; needs CUDA)"
EVALUATION = "checkpoints are scored while training runs; recipe.evaluations_in_loop pauses training for it"
TEMPLATE = "the chat template of the base's own tokenizer is used"
OUTPUT = "runs go to --runs FOLDER; deepcuts export copies a release"
STRATEGY = "set recipe.strategy to auto, ddp or fsdp"

OTHER_NAMES = {
    "num_train_epochs": EPOCHS,
    "num_epochs": EPOCHS,
    "epochs": EPOCHS,
    "max_steps": "set recipe.budget_tokens to steps x recipe.tokens_per_step",
    "per_device_train_batch_size": BATCH,
    "train_micro_batch_size_per_gpu": BATCH,
    "per_device_eval_batch_size": "scoring sizes its batches by itself",
    "gradient_accumulation_steps": STEP,
    "batch_size": STEP,
    "global_batch_size": STEP,
    "train_batch_size": STEP,
    "max_seq_length": LENGTH,
    "max_seq_len": LENGTH,
    "max_length": LENGTH,
    "cutoff_len": LENGTH,
    "sequence_len": LENGTH,
    "block_size": LENGTH,
    "model_max_length": LENGTH,
    "r": "set recipe.lora_rank",
    "lora_r": "set recipe.lora_rank",
    "rank": "set recipe.lora_rank",
    "alpha": "set recipe.lora_alpha",
    "target_modules": "set recipe.lora_targets",
    "lora_target": "set recipe.lora_targets",
    "lora_target_modules": "set recipe.lora_targets",
    "use_rslora": "set recipe.lora_rslora",
    "use_dora": "set recipe.lora_dora",
    "lr": "set recipe.learning_rate",
    "lr_scheduler_type": "set recipe.schedule to linear, cosine or constant",
    "lr_scheduler": "set recipe.schedule to linear, cosine or constant",
    "warmup_steps": "set recipe.warmup_ratio, a share of all tokens",
    "num_warmup_steps": "set recipe.warmup_ratio, a share of all tokens",
    "bf16": PRECISION,
    "fp16": PRECISION,
    "tf32": PRECISION,
    "torch_dtype": PRECISION,
    "dtype": PRECISION,
    "mixed_precision": PRECISION,
    "load_in_4bit": FOUR_BITS,
    "quantization_bit": FOUR_BITS,
    "load_in_8bit": f"there is no 8-bit base for training; {FOUR_BITS}",
    "model_name_or_path": BASE,
    "pretrained_model_name_or_path": BASE,
    "model_name": BASE,
    "base_model": BASE,
    "model_id": BASE,
    "model": BASE,
    "dataset": DATA,
    "datasets": DATA,
    "dataset_name": DATA,
    "dataset_path": DATA,
    "data_path": DATA,
    "data_files": DATA,
    "train_file": DATA,
    "dataset_text_field": "set columns: {text: NAME}",
    "text_column": "set columns: {text: NAME}",
    "template": TEMPLATE,
    "chat_template": TEMPLATE,
    "output_dir": OUTPUT,
    "push_to_hub": OUTPUT,
    "hub_model_id": OUTPUT,
    "run_name": "give --name",
    "optim": "the optimizer is AdamW; recipe.beta1, beta2 and weight_decay are its settings",
    "optimizer": "the optimizer is AdamW; recipe.beta1, beta2 and weight_decay are its settings",
    "adam_beta1": "set recipe.beta1",
    "adam_beta2": "set recipe.beta2",
    "gradient_clipping": "set recipe.max_grad_norm",
    "clip_grad": "set recipe.max_grad_norm",
    "sample_packing": "set recipe.packing",
    "neat_packing": "set recipe.packing",
    "save_steps": "set recipe.save_every_seconds",
    "save_strategy": "set recipe.save_every_seconds",
    "save_total_limit": "set recipe.keep_checkpoints",
    "eval_steps": EVALUATION,
    "eval_strategy": EVALUATION,
    "evaluation_strategy": EVALUATION,
    "logging_steps": "every optimizer step is in the loss curve; leave it out",
    "report_to": "set MLFLOW_TRACKING_URI in the environment",
    "val_set_size": "set valid_share",
    "val_size": "set valid_share",
    "test_size": "set test_share",
    "finetuning_type": "set recipe.method to lora or full",
    "adapter": "set recipe.method to lora or full",
    "peft": "set recipe.method to lora or full",
    "deepspeed": STRATEGY,
    "fsdp": STRATEGY,
    "fsdp_config": STRATEGY,
    "early_stopping_patience": "set patience",
    "random_seed": "set seed, and recipe.seed for training",
    "use_gradient_checkpointing": "set recipe.gradient_checkpointing",
}
"""What to do here, by the name used elsewhere."""
