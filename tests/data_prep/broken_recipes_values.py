"""Broken recipes whose keys are right: text for a number, wrong values, values in contradiction."""

from tests.data_prep.recipe_edits import BEST, FSDP, ROUGE_100, STEPS, BrokenRecipe, add, swap

FIT = (
    "set `eval_steps`, and `save_steps` to a multiple of it, instead of `eval_strategy` and "
    "`save_strategy`"
)

NUMBERS_AS_TEXT = [
    swap("learning rate with an exponent", "learning_rate: 0.001", "learning_rate: 2e-4",
         "`learning_rate`: 2e-4 is text to YAML; write 0.0002"),
    swap("learning rate in quotes", "learning_rate: 0.001", 'learning_rate: "0.001"',
         "`learning_rate`: 0.001 is text to YAML; write 0.001 without quotes"),
    swap("learning rate without end", "learning_rate: 0.001", "learning_rate: inf",
         "`learning_rate`: inf is text to YAML; write a finite number"),
    swap("whole number in quotes", "lora_r: 16", "lora_r: '16'",
         "`lora_r`: 16 is text to YAML; write 16 without quotes"),
    swap("whole number with an exponent", "sequence_len: 1024", "sequence_len: 1e3",
         "`sequence_len`: 1e3 is text to YAML; write 1000"),
    swap("number of a data set", "train.jsonl\n", "train.jsonl\n    shards: '2'\n",
         "`datasets[0].shards`: 2 is text to YAML; write 2 without quotes", at="shards"),
    add("number in a list", "dpo_loss_weights: [1.0, 5e-1]",
        "`dpo_loss_weights[1]`: 5e-1 is text to YAML; write 0.5"),
    add("number of a free block", "lr_scheduler_kwargs:\n  min_lr: 15E-7",
        "`lr_scheduler_kwargs.min_lr`: 15E-7 is text to YAML; write 0.0000015", at="min_lr"),
    swap("our number", "    max_new_tokens: 128", "    repetition_penalty: 11e-1",
         "`summarization.decoding.repetition_penalty`: 11e-1 is text to YAML; write 1.1"),
]  # fmt: skip

WRONG_VALUES = [
    swap("text for a number", "lora_r: 16", "lora_r: many",
         "`lora_r`: must be a valid integer (found 'many')"),
    swap("part for a whole", "lora_r: 16", "lora_r: 16.5",
         "`lora_r`: must be a valid integer (found 16.5)"),
    swap("text for a switch", "gradient_checkpointing: false", "tf32: yes please",
         "`tf32`: must be 'auto' or a valid boolean (found 'yes please')"),
    BrokenRecipe("text for a list", [("\nplugins:\n  - ", "\nplugins: ")], [
        ("plugins: training",
         "`plugins`: must be a valid list (found 'training.plu...izationPlugin')")
    ], reaches_our_plugin=False),
    swap("text for a block", "  train_rows: all", "  cleaning: all",
         "`summarization.cleaning`: must be a valid dictionary or instance of Cleaning "
         "(found 'all')"),
    add("no such value", "fsdp_version: 2\nfsdp_config:\n  state_dict_type: FULL",
        "`fsdp_config.state_dict_type`: must be 'FULL_STATE_DICT', 'LOCAL_STATE_DICT' or "
        "'SHARDED_STATE_DICT' (found 'FULL')", at="state_dict_type"),
    add("beyond a limit of axolotl", "relora_prune_ratio: 1.5",
        "`relora_prune_ratio`: must be less than or equal to 1 (found 1.5)"),
    add("half of a block", FSDP + "  auto_wrap_policy: SIZE_BASED_WRAP",
        "Axolotl refuses `fsdp_config.auto_wrap_policy`: fsdp_config.min_num_params is required "
        "when auto_wrap_policy is SIZE_BASED_WRAP", at="auto_wrap_policy"),
    swap("no value", "output_dir: outputs/smollm2_samsum", "output_dir:",
         "`output_dir` is missing; set it"),
    swap("our key without a value", "  license: CC0-1.0", "  license:",
         "`summarization.license` is missing; set it"),
    swap("no learning", "learning_rate: 0.001", "learning_rate: 0",
         "`learning_rate` is 0; it must be above 0"),
    swap("no epochs", "num_epochs: 1", "num_epochs: -1",
         "`num_epochs` is -1; it must be above 0"),
    swap("no batch", "micro_batch_size: 4", "micro_batch_size: 0",
         "`micro_batch_size` is 0; it must be at least 1"),
    swap("no rank", "lora_r: 16", "lora_r: 0", "`lora_r` is 0; it must be at least 1"),
    swap("all dropped", "lora_dropout: 0.0", "lora_dropout: 1.5",
         "`lora_dropout` is 1.5; it must be at least 0 and below 1"),
    swap("no length", "sequence_len: 1024", "sequence_len: 0",
         "`sequence_len` is 0; it must be at least 1"),
    swap("short name of an attention", "attn_implementation: sdpa", "attn_implementation: flash",
         "Axolotl refuses `attn_implementation`: attn_implementation='flash' is not accepted. Use "
         "the canonical name 'flash_attention_2' instead."),
    swap("rows of the hub", "seed: 42", "seed: 42\npush_dataset_to_hub: me/rows",
         "`push_dataset_to_hub` uploads the rows, or trains on rows there which data_prep does not "
         "prepare, clean or separate from the test dialogues; remove it", at="push_dataset_to_hub"),
    swap("two ways to warm up", "warmup_ratio: 0.05", "warmup_ratio: 0.05\nwarmup_steps: 5",
         "Axolotl refuses `warmup_steps`: warmup_steps and warmup_ratio are mutually exclusive",
         at="warmup_steps: 5"),
    swap("our rows", "train_rows: all", "train_rows: some",
         "`summarization.train_rows`: must be `all` or a whole number above 0 (found 'some')"),
    swap("our switch", "  train_rows: all", "  cleaning: {drop_empty: 'yes'}",
         "`summarization.cleaning.drop_empty`: must be a valid boolean (found 'yes')"),
    swap("no place for the dialogue", "    {dialogue}\n", "    the dialogue\n",
         "`summarization.instruction`: must contain {dialogue} exactly once, where the dialogue "
         "goes (found 'Summarize th...nthe dialogue')", at="  instruction:"),
    swap("sampling without sampling", "    dtype: float32", "    temperature: 0.5",
         "`summarization.decoding`: temperature has no effect without `do_sample: true`"),
]  # fmt: skip

CONTRADICTIONS = [
    add("lora in four bits", "load_in_4bit: true",
        "`adapter: lora` with `load_in_4bit: true` trains a model that is not quantised; write "
        "`adapter: qlora`, or remove `load_in_4bit`"),
    swap("qlora without four bits", "adapter: lora", "adapter: qlora",
         "`adapter: qlora` without `load_in_4bit: true` is plain LoRA; set `load_in_4bit: true`, "
         "or write `adapter: lora`"),
    BrokenRecipe("packing without attention", [
        ("group_by_length: true", "sample_packing: true"), ("attn_implementation: sdpa\n", "")], [
        ("sample_packing: true",
         "`sample_packing: true` without `attn_implementation` lets the dialogues of a pack attend "
         "to each other; set `attn_implementation: sdpa`")]),
    BrokenRecipe("packing with an attention that leaks", [
        ("group_by_length: true", "sample_packing: true"),
        ("attn_implementation: sdpa", "attn_implementation: fp8")], [
        ("attn_implementation: fp8",
         "`attn_implementation: fp8` with `sample_packing: true` lets the dialogues of a pack "
         "attend to each other; use `sdpa`, or `flash_attention_2`")]),
    add("both lora targets", "lora_target_modules: [q_proj, v_proj]",
        "`lora_target_linear: true` adds every linear layer to `lora_target_modules`; keep one of "
        "the two", at="lora_target_linear: true"),
    add("best model without evaluation steps", BEST.strip(),
        f"`load_best_model_at_end` would be turned off: `eval_steps` is not set; {FIT}"),
    BrokenRecipe("best model without any steps", [
        ("", BEST), ("save_steps: 250", "save_strategy: epoch")], [
        (BEST, "`load_best_model_at_end` would be turned off: `eval_steps` and `save_steps` are "
               f"not set; {FIT}")]),
    BrokenRecipe("best model between two savings", [
        ("", BEST), ("eval_strategy: epoch\nsave_steps: 250", "eval_steps: 20\nsave_steps: 50")], [
        (BEST, "`load_best_model_at_end` would be turned off: saving every 50 steps is not a "
               "multiple of evaluating every 20; set `save_steps` to a multiple of `eval_steps`")]),
    BrokenRecipe("best model by epochs", [
        ("", BEST),
        ("eval_strategy: epoch\nsave_steps: 250", "evals_per_epoch: 3\nsaves_per_epoch: 2")], [
        (BEST, "`load_best_model_at_end` would be turned off: saving every 0.5 steps is not a "
               "multiple of evaluating every 0.333333; set `save_steps` to a multiple of "
               "`eval_steps`")]),
    add("early stopping by epochs", "early_stopping_patience: 3",
        f"`early_stopping_patience` would be turned off: `eval_steps` is not set; {FIT}"),
    BrokenRecipe("rouge that is never computed", [
        ("", BEST + "metric_for_best_model: eval_rougeL\n"), STEPS], [
        ("metric_for", "`metric_for_best_model: eval_rougeL` is never computed: "
                       "`summarization.training_rouge.dialogues` is 0; set it, for instance to 100")
        ]),
    BrokenRecipe("unknown rouge", [
        ("", BEST + "metric_for_best_model: eval_rouge_l\n"), STEPS, ROUGE_100], [
        ("metric_for", "`metric_for_best_model: eval_rouge_l` is unknown; use one of eval_rouge1, "
                       "eval_rouge2, eval_rougeL, eval_rougeLsum")]),
    BrokenRecipe("less rouge is better", [
        ("", BEST + "metric_for_best_model: rougeL\ngreater_is_better: false\n"), STEPS,
        ROUGE_100], [
        ("greater_is", "`greater_is_better: false` is dropped by Axolotl: a higher rougeL still "
                       "wins; remove it")]),
    BrokenRecipe("more loss is better", [("", BEST + "greater_is_better: true\n"), STEPS], [
        ("greater_is", "`greater_is_better: true` would keep the checkpoint with the highest loss; "
                       "remove it")]),
    add("metric that chooses nothing", "metric_for_best_model: eval_loss",
        "`metric_for_best_model: eval_loss` has no effect: the last weights are kept; set "
        "`load_best_model_at_end: true`, or remove it"),
    add("checkpoints without their optimizer", "save_only_model: true",
        "`save_only_model: true` leaves the optimizer out of the checkpoints, so an interrupted "
        "run cannot resume exactly; remove it"),
    add("a key of a merge", "merge_lora: true",
        "`merge_lora` is what `axolotl merge-lora` sets by itself; remove it"),
    swap("test on the training rows", "validation.jsonl", "train.jsonl",
         "`test_datasets[0].path` is data/smollm2_samsum/train.jsonl; data_prep writes "
         "validation.jsonl, and both files into the same folder",
         at="  - path: data/smollm2_samsum/train.jsonl\n    ds_type: json\n    type: chat_template"
            "\n    split"),
    swap("train on the test rows", "\ntest_datasets:",
         "\n  - path: data/smollm2_samsum/validation.jsonl  # too\ntest_datasets:",
         "`datasets[1]` is data/smollm2_samsum/validation.jsonl, which is in `test_datasets` "
         "too; a model must not be tested on its training rows: remove it", at="# too"),
    swap("train on rows that nothing prepares", "\ntest_datasets:",
         "\n  - path: more.jsonl\n    ds_type: json\n    type: chat_template\ntest_datasets:",
         "`datasets[1]` is more.jsonl, which data_prep does not prepare, clean or separate from "
         "the test dialogues; put its rows into `summarization.source`, and remove the entry",
         at="  - path: more.jsonl"),
    swap("test on rows that nothing prepares", "\nsequence_len:",
         "\n  - path: more.jsonl\n    ds_type: json\n    type: chat_template\nsequence_len:",
         "`test_datasets[1]` is more.jsonl, which data_prep does not prepare, clean or separate "
         "from the test dialogues; put its rows into `summarization.source`, and remove the entry",
         at="  - path: more.jsonl"),
    add("system message of axolotl's", "default_system_message: You summarise chats.",
        "`default_system_message` has no effect on prompts of `type: chat_template`; "
        "remove it, and set `summarization.system`"),
]  # fmt: skip
