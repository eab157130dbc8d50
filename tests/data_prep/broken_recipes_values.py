"""Broken recipes with valid keys: text for a number, wrong values, contradictory values."""

from tests.data_prep.recipe_edits import BEST, FSDP, ROUGE_100, STEPS, BrokenRecipe, add, swap

NUMBERS_AS_TEXT = [
    swap("learning rate with an exponent", "learning_rate: 0.001", "learning_rate: 2e-4",
         "`learning_rate`: 2e-4 … text … write 0.0002"),
    swap("learning rate in quotes", "learning_rate: 0.001", 'learning_rate: "0.001"',
         "`learning_rate`: 0.001 … text … write 0.001 without quotes"),
    swap("infinite learning rate", "learning_rate: 0.001", "learning_rate: inf",
         "`learning_rate`: inf … text … write a finite number"),
    swap("whole number in quotes", "lora_r: 16", "lora_r: '16'",
         "`lora_r`: 16 … text … write 16 without quotes"),
    swap("whole number with an exponent", "sequence_len: 1024", "sequence_len: 1e3",
         "`sequence_len`: 1e3 … text … write 1000"),
    swap("number in datasets", "train.jsonl\n", "train.jsonl\n    shards: '2'\n",
         "`datasets[0].shards`: 2 … text … write 2 without quotes", at="shards"),
    add("number in a list", "dpo_loss_weights: [1.0, 5e-1]",
        "`dpo_loss_weights[1]`: 5e-1 … text … write 0.5"),
    add("number in a block with free keys", "lr_scheduler_kwargs:\n  min_lr: 15E-7",
        "`lr_scheduler_kwargs.min_lr`: 15E-7 … text … write 0.0000015", at="min_lr"),
    swap("number in summarization", "    max_new_tokens: 128", "    repetition_penalty: 11e-1",
         "`summarization.decoding.repetition_penalty`: 11e-1 … text … write 1.1"),
]  # fmt: skip

WRONG_VALUES = [
    swap("text for a number", "lora_r: 16", "lora_r: many", "`lora_r` … integer … 'many'"),
    swap("fraction for a whole number", "lora_r: 16", "lora_r: 16.5", "`lora_r` … integer … 16.5"),
    swap("text for a boolean", "gradient_checkpointing: false", "tf32: yes please",
         "`tf32` … 'auto' … boolean … 'yes please'"),
    BrokenRecipe("text for a list", [("\nplugins:\n  - ", "\nplugins: ")], [
        ("plugins: training",
         "`plugins` … list … 'training.plu...izationPlugin'")
    ], reaches_our_plugin=False),
    swap("text for a block", "  train_rows: all", "  cleaning: all",
         "`summarization.cleaning` … dictionary … 'all'"),
    add("unknown value", "fsdp_version: 2\nfsdp_config:\n  state_dict_type: FULL",
        "`fsdp_config.state_dict_type` … 'FULL_STATE_DICT' … 'FULL'", at="state_dict_type"),
    add("above a limit of axolotl", "relora_prune_ratio: 1.5",
        "`relora_prune_ratio` … less than or equal to 1 … 1.5"),
    add("incomplete block", FSDP + "  auto_wrap_policy: SIZE_BASED_WRAP",
        "Axolotl refuses `fsdp_config.auto_wrap_policy` … min_num_params", at="auto_wrap_policy"),
    swap("empty value", "output_dir: outputs/smollm2_samsum", "output_dir:",
         "`output_dir` … missing"),
    swap("empty value in summarization", "  license: CC0-1.0", "  license:",
         "`summarization.license` … missing"),
    swap("learning rate of zero", "learning_rate: 0.001", "learning_rate: 0",
         "`learning_rate` is 0 … above 0"),
    swap("negative epochs", "num_epochs: 1", "num_epochs: -1", "`num_epochs` is -1 … above 0"),
    swap("batch size of zero", "micro_batch_size: 4", "micro_batch_size: 0",
         "`micro_batch_size` is 0 … at least 1"),
    swap("rank of zero", "lora_r: 16", "lora_r: 0", "`lora_r` is 0 … at least 1"),
    swap("dropout above one", "lora_dropout: 0.0", "lora_dropout: 1.5",
         "`lora_dropout` is 1.5 … at least 0 and below 1"),
    swap("sequence length of zero", "sequence_len: 1024", "sequence_len: 0",
         "`sequence_len` is 0 … at least 1"),
    swap("short attention name", "attn_implementation: sdpa", "attn_implementation: flash",
         "Axolotl refuses `attn_implementation` … 'flash' … 'flash_attention_2'"),
    swap("rows pushed to the hub", "seed: 42", "seed: 42\npush_dataset_to_hub: me/rows",
         "`push_dataset_to_hub` … test dialogues … remove", at="push_dataset_to_hub"),
    swap("two warmup keys", "warmup_ratio: 0.05", "warmup_ratio: 0.05\nwarmup_steps: 5",
         "Axolotl refuses `warmup_steps` … warmup_ratio … exclusive", at="warmup_steps: 5"),
    swap("text for train_rows", "train_rows: all", "train_rows: some",
         "`summarization.train_rows` … `all` or a whole number above 0 … 'some'"),
    swap("text for drop_empty", "  train_rows: all", "  cleaning: {drop_empty: 'yes'}",
         "`summarization.cleaning.drop_empty` … boolean … 'yes'"),
    swap("instruction without the dialogue", "    {dialogue}\n", "    the dialogue\n",
         "`summarization.instruction` … {dialogue} exactly once", at="  instruction:"),
    swap("temperature without sampling", "    dtype: float32", "    temperature: 0.5",
         "temperature … no effect … `do_sample: true`"),
]  # fmt: skip

CONTRADICTIONS = [
    add("lora in four bits", "load_in_4bit: true",
        "`load_in_4bit: true` … not quantised … `adapter: qlora`"),
    swap("qlora without four bits", "adapter: lora", "adapter: qlora",
         "`adapter: qlora` … plain LoRA … `load_in_4bit: true`"),
    BrokenRecipe("packing without attention", [
        ("group_by_length: true", "sample_packing: true"), ("attn_implementation: sdpa\n", "")], [
        ("sample_packing: true", "`sample_packing: true` … attend … `attn_implementation: sdpa`")]),
    BrokenRecipe("packing with fp8 attention", [
        ("group_by_length: true", "sample_packing: true"),
        ("attn_implementation: sdpa", "attn_implementation: fp8")], [
        ("attn_implementation: fp8", "`attn_implementation: fp8` … attend … use `sdpa`")]),
    add("both lora targets", "lora_target_modules: [q_proj, v_proj]",
        "`lora_target_linear: true` … `lora_target_modules` … keep one",
        at="lora_target_linear: true"),
    add("best model without evaluation steps", BEST.strip(),
        "`load_best_model_at_end` … off … `eval_steps` is not set … `save_steps`"),
    BrokenRecipe("best model without any steps", [
        ("", BEST), ("save_steps: 250", "save_strategy: epoch")], [
        (BEST, "`load_best_model_at_end` … off … `eval_steps` and `save_steps` are not set")]),
    BrokenRecipe("best model with unaligned steps", [
        ("", BEST), ("eval_strategy: epoch\nsave_steps: 250", "eval_steps: 20\nsave_steps: 50")], [
        (BEST, "`load_best_model_at_end` … off … every 50 … every 20 … `save_steps`")]),
    BrokenRecipe("best model by epochs", [
        ("", BEST),
        ("eval_strategy: epoch\nsave_steps: 250", "evals_per_epoch: 3\nsaves_per_epoch: 2")], [
        (BEST, "`load_best_model_at_end` … off … every 0.5 … every 0.333333 … `save_steps`")]),
    add("early stopping by epochs", "early_stopping_patience: 3",
        "`early_stopping_patience` … off … `eval_steps` is not set … `save_steps`"),
    BrokenRecipe("rouge that is never computed", [
        ("", BEST + "metric_for_best_model: eval_rougeL\n"), STEPS], [
        ("metric_for", "eval_rougeL` … never computed … training_rouge.dialogues` is 0 … set")]),
    BrokenRecipe("unknown rouge", [
        ("", BEST + "metric_for_best_model: eval_rouge_l\n"), STEPS, ROUGE_100], [
        ("metric_for", "eval_rouge_l` … unknown … eval_rouge1, … eval_rougeL")]),
    BrokenRecipe("lower rouge is better", [
        ("", BEST + "metric_for_best_model: rougeL\ngreater_is_better: false\n"), STEPS,
        ROUGE_100], [
        ("greater_is", "`greater_is_better: false` … a higher rougeL … remove")]),
    BrokenRecipe("higher loss is better", [("", BEST + "greater_is_better: true\n"), STEPS], [
        ("greater_is", "`greater_is_better: true` … highest loss … remove")]),
    add("metric without effect", "metric_for_best_model: eval_loss",
        "`metric_for_best_model: eval_loss` … no effect … `load_best_model_at_end: true`"),
    add("checkpoints without the optimizer", "save_only_model: true",
        "`save_only_model: true` … optimizer … remove"),
    add("merge key", "merge_lora: true", "`merge_lora` … `axolotl merge-lora` … remove"),
    swap("test on the training rows", "validation.jsonl", "train.jsonl",
         "`test_datasets[0].path` is data/smollm2_samsum/train.jsonl … validation.jsonl",
         at="  - path: data/smollm2_samsum/train.jsonl\n    ds_type: json\n    type: chat_template"
            "\n    split"),
    swap("train on the test rows", "\ntest_datasets:",
         "\n  - path: data/smollm2_samsum/validation.jsonl  # too\ntest_datasets:",
         "`datasets[1]` is data/smollm2_samsum/validation.jsonl … `test_datasets` … remove",
         at="# too"),
    swap("train on unprepared rows", "\ntest_datasets:",
         "\n  - path: more.jsonl\n    ds_type: json\n    type: chat_template\ntest_datasets:",
         "`datasets[1]` is more.jsonl … not prepare … `summarization.source` … remove",
         at="  - path: more.jsonl"),
    swap("test on unprepared rows", "\nsequence_len:",
         "\n  - path: more.jsonl\n    ds_type: json\n    type: chat_template\nsequence_len:",
         "`test_datasets[1]` is more.jsonl … not prepare … `summarization.source` … remove",
         at="  - path: more.jsonl"),
    add("default system message", "default_system_message: You summarise chats.",
        "`default_system_message` … no effect … `summarization.system`"),
]  # fmt: skip
