"""Map settings of other training tools to ours.

Names of transformers, TRL and PEFT (``num_train_epochs``), LLaMA-Factory (``cutoff_len``), Axolotl
(``sequence_len``), Unsloth (``r``), litgpt (``micro_batch_size``), Lightning (``devices``), torchtune
(``batch_size``), MLX (``iters``) and hosted services (``n_epochs``), which people bring with them.
"""

MEANINGS = {
    "set recipe.epochs, the passes over the data, in place of recipe.budget_tokens": (
        "num_train_epochs num_epochs num_epoch epoch n_epochs nb_epochs train_epochs max_epochs"
    ),
    "set recipe.budget_tokens to steps x recipe.tokens_per_step": (
        "max_steps max_train_steps train_steps total_steps num_steps num_iterations iterations iters "
        "max_iters"
    ),
    "set recipe.budget_tokens, the tokens to train on, or budget_usd, the dollars of the run": (
        "budget max_tokens_trained"
    ),
    "set recipe.micro_batch_size, the rows of one forward pass on a device": (
        "per_device_train_batch_size per_gpu_train_batch_size train_micro_batch_size_per_gpu "
        "device_batch_size train_bs"
    ),
    "scoring sizes its batches by itself": "per_device_eval_batch_size eval_batch_size val_batch_size",
    "set recipe.tokens_per_step, the tokens of one optimizer step over all devices and micro-batches": (
        "gradient_accumulation_steps gradient_accumulation grad_accum grad_accum_steps "
        "grad_accumulation_steps accumulate_grad_batches batch_size global_batch_size train_batch_size "
        "effective_batch_size tokens_per_batch"
    ),
    "set recipe.seq_len, the tokens of a row, and max_tokens, those of the longest example": (
        "max_seq_length max_seq_len max_seq max_length max_len cutoff_len sequence_len sequence_length "
        "seqlen block_size context_length context_len ctx_len model_max_length max_prompt_length"
    ),
    "set recipe.lora_rank": "r lora_r rank lora_dim adapter_rank qlora_rank",
    "set recipe.lora_alpha": "alpha lora_scaling",
    "set recipe.lora_dropout": "dropout adapter_dropout",
    "set recipe.lora_targets": (
        "target_modules lora_target lora_target_modules target_linear lora_target_linear lora_modules "
        "lora_attn_modules"
    ),
    "set recipe.lora_rslora": "use_rslora rslora",
    "set recipe.lora_dora": "use_dora dora",
    "set recipe.trainable_embeddings": "modules_to_save additional_target",
    "set recipe.method to lora or full": (
        "finetuning_type fine_tuning_type fine_tune_type tuning_type train_type adapter peft peft_type "
        "use_peft lora use_lora full_finetuning"
    ),
    "set recipe.learning_rate": "lr base_lr peak_lr max_lr initial_lr learning_rate_multiplier",
    "the rate falls to 0; recipe.schedule is its shape": "min_lr lr_min final_lr min_learning_rate",
    "set recipe.schedule to linear, cosine or constant": (
        "lr_scheduler_type lr_scheduler scheduler scheduler_type lr_schedule lr_decay_style "
        "learning_rate_schedule learning_rate_scheduler"
    ),
    "set recipe.warmup_ratio, a share of all tokens": "warmup_steps num_warmup_steps lr_warmup_steps warmup",
    "set recipe.precision to auto, bf16 or fp32": (
        "bf16 fp16 fp32 tf32 torch_dtype dtype mixed_precision half_precision pure_bf16"
    ),
    "set recipe.base_precision to nf4 (an adapter on a 4-bit base; needs CUDA)": (
        "load_in_4bit load_4bit quantization_bit quantization_method qlora use_qlora bits use_4bit "
        "bnb_4bit_quant_type bnb_4bit_compute_dtype bnb_4bit_use_double_quant bnb_config"
    ),
    "there is no 8-bit base for training; set recipe.base_precision to nf4 (a 4-bit base; needs CUDA)": (
        "load_in_8bit load_8bit use_8bit"
    ),
    "set quantize_candidates, the formats that the released model is tried in": "quantization quantize quant",
    "set base_uri: a folder, org/name of the hub, or s3://": (
        "model_name_or_path pretrained_model_name_or_path model_name base_model base_model_name model_id "
        "model model_path checkpoint checkpoint_dir pretrained_model"
    ),
    "set teacher_uri in deepcuts run distill": "teacher teacher_model teacher_model_name_or_path",
    "set student_uri in deepcuts run distill": "student student_model",
    "the base's own tokenizer is used: put it into the base's folder": (
        "tokenizer tokenizer_name tokenizer_path tokenizer_type tokenizer_name_or_path special_tokens "
        "pad_token"
    ),
    "code of a model's repository is never run: see docs/models.md": "trust_remote_code",
    "set data_uri: a file, a folder, org/name of a data set, or s3://": (
        "dataset datasets dataset_name dataset_path dataset_dir dataset_id data data_path data_dir "
        "data_files train_file train_data train_dataset training_file training_data"
    ),
    "put the file next to the training data, with valid or test in its name": (
        "eval_dataset val_dataset validation_file eval_file valid_file test_file validation_data"
    ),
    "set format, or leave it out: it is found out": "dataset_format dataset_type data_format dataset_kind",
    "set columns: {text: NAME}": "dataset_text_field text_column text_field",
    "set columns: {prompt: NAME}": (
        "prompt_column prompt_field input_column input_field instruction_column question_column"
    ),
    "set columns: {completion: NAME}": (
        "response_column response_field output_column output_field completion_column answer_column "
        "target_column"
    ),
    "set columns, see docs/data-formats.md": "label_column column_mapping field_mapping remove_columns",
    "set max_examples for scoring; select_budget_tokens bounds the training data": (
        "max_samples max_train_samples num_samples max_eval_samples"
    ),
    "the chat template of the base's own tokenizer is used": (
        "template chat_template prompt_template prompt_style prompt_format conversation_template"
    ),
    "put it into the data: a first turn of the role system": "system system_prompt system_message",
    "only answers are learned; data of plain text is learned whole": (
        "train_on_inputs train_on_prompt train_on_input completion_only_loss assistant_only_loss mask_prompt "
        "response_template train_on_responses_only"
    ),
    "runs go to --runs FOLDER; deepcuts export copies a release": (
        "output_dir out_dir save_dir output output_path logging_dir overwrite_output_dir push_to_hub "
        "hub_model_id hub_strategy"
    ),
    "export HF_TOKEN; a token in a file is soon in a repository": (
        "hub_token hf_token token use_auth_token huggingface_token"
    ),
    "give --name": "run_name name experiment_name project_name",
    "the optimizer is AdamW; recipe.beta1, beta2 and weight_decay are its settings": (
        "optim optimizer optimizer_type optim_args adam_epsilon"
    ),
    "set recipe.beta1": "adam_beta1",
    "set recipe.beta2": "adam_beta2",
    "set recipe.weight_decay": "wd adam_weight_decay",
    "set recipe.max_grad_norm": "gradient_clipping clip_grad gradient_clip_val grad_clip clip_grad_norm",
    "set recipe.packing": "sample_packing neat_packing multipack_sampler pack",
    "rows are packed without padding; leave it out": "group_by_length length_column_name",
    "attention is chosen by itself; leave it out": (
        "flash_attn flash_attention use_flash_attention use_flash_attention_2 use_flash_attn "
        "attn_implementation sdp_attention xformers_attention"
    ),
    "set recipe.compile to auto, on or off": "torch_compile use_compile torch_compile_backend",
    "set recipe.gradient_checkpointing": (
        "use_gradient_checkpointing activation_checkpointing enable_activation_checkpointing grad_checkpoint"
    ),
    "set recipe.save_every_seconds": "save_steps save_strategy save_interval save_every checkpointing_steps",
    "set recipe.keep_checkpoints": "save_total_limit",
    "run the same command again: it resumes": (
        "resume resume_from_checkpoint auto_resume_from_checkpoints ckpt_path load_best_model_at_end"
    ),
    "checkpoints are scored while training runs; recipe.evaluations_in_loop pauses training for it": (
        "eval_steps eval_strategy evaluation_strategy eval_every eval_interval evals_per_epoch "
        "val_check_interval do_eval"
    ),
    "every optimizer step is in the loss curve; leave it out": (
        "logging_steps logging_strategy log_every log_interval log_every_n_steps steps_per_report"
    ),
    "set MLFLOW_TRACKING_URI in the environment": (
        "report_to mlflow mlflow_tracking_uri wandb use_wandb wandb_project wandb_entity tensorboard logger"
    ),
    "set valid_share": (
        "val_set_size val_size valid_size validation_split val_split validation_split_percentage"
    ),
    "set test_share": "test_size test_split test_set_size",
    "set valid_share and test_share; the rest is trained on": "train_split train_size split",
    "this is decided by the pipeline: leave it out": "stage do_train do_predict task_type training_type",
    "set measures: label_accuracy for classes, exact_match for short answers": (
        "task metrics metric_for_best_model"
    ),
    "the pool of nodepools.yaml that a run gets has it; pool names one": (
        "gpu gpus num_gpus n_gpus gpu_type gpu_ids accelerator accelerators devices device device_map "
        "num_nodes num_processes nproc_per_node tensor_parallel_size"
    ),
    "set recipe.strategy to auto, ddp, fsdp or hsdp": "deepspeed fsdp fsdp_config ddp distributed_strategy",
    "there is no such setting; leave it out": (
        "num_workers dataloader_num_workers preprocessing_num_workers dataset_num_proc num_proc"
    ),
    "set patience": "early_stopping_patience early_stopping early_stop early_stopping_rounds",
    "set seed, and recipe.seed for training": "random_seed random_state manual_seed",
    "there is no such regularizer here: leave it out": (
        "neftune_noise_alpha noise_alpha label_smoothing label_smoothing_factor loraplus_lr_ratio"
    ),
    "set temperature in deepcuts run distill": "kd_temperature distill_temperature",
    "set cross_entropy_weight in deepcuts run distill": "kd_alpha kd_ce_alpha distill_alpha",
}
"""What to do here: the names elsewhere of what it does."""

OTHER_NAMES = {name: meaning for meaning, names in MEANINGS.items() for name in names.split()}
"""Name elsewhere: what to do here."""
