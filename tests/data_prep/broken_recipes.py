"""The table of broken recipes, each with the key words of all its messages.

Each is recipes/smollm2_samsum.yml with its text edited, so that the line numbers are real.
"""

from tests.data_prep.broken_recipes_values import CONTRADICTIONS, NUMBERS_AS_TEXT, WRONG_VALUES
from tests.data_prep.recipe_edits import FSDP, OURS, ROUGE_100, BrokenRecipe, add, swap

MISSPELT = [
    swap("top level", "lora_r: 16", "lora_rank: 16", "unknown key `lora_rank` … `lora_r`"),
    swap("required key", "learning_rate:", "learning_rat:",
         "unknown key `learning_rat` … `learning_rate`"),
    swap("base model", "base_model: models", "base_modle: models",
         "unknown key `base_modle` … `base_model`"),
    swap("output folder", "output_dir:", "output_dirs:",
         "unknown key `output_dirs` … `output_dir`"),
    add("no similar key", "zzzzzz: 1", "unknown key `zzzzzz` … remove it"),
    add("removed by axolotl", "unsloth_lora_mlp: true",
        "unknown key `unsloth_lora_mlp` … removed … `lora_mlp_kernel`"),
    swap("key datasets", "\ndatasets:", "\ndataset:",
         "unknown key `dataset` … `datasets`", at="dataset:\n  - path: data/smollm2"),
    swap("in datasets", "train.jsonl\n    ds_type:", "train.jsonl\n    ds_typ:",
         "unknown key `datasets[0].ds_typ` … `ds_type`", at="ds_typ:"),
    swap("path in datasets", "path: data/smollm2_samsum/train", "pth: data/smollm2_samsum/train",
         "unknown key `datasets[0].pth` … `path`", at="pth: data"),
    swap("dpo key in datasets", "train.jsonl\n", "train.jsonl\n    field_rejected: worse\n",
         "unknown key `datasets[0].field_rejected` … `field`", at="field_rejected"),
    swap("nested in datasets", "train.jsonl\n    ds_type: json\n    type: chat_template",
         "train.jsonl\n    type: {system_promt: none, field_output: answer}",
         "unknown key `datasets[0].type.system_promt` … `system_prompt`", at="system_promt"),
    swap("in test_datasets", "    split: train", "    splits: train",
         "unknown key `test_datasets[0].splits` … `split`", at="splits:"),
    add("in special_tokens", "special_tokens:\n  pad_tokn: <unk>",
        "unknown key `special_tokens.pad_tokn` … `pad_token`", at="pad_tokn"),
    add("in special_tokens on one line", 'special_tokens: {eos_token: "</s>", pad_tokn: <unk>}',
        "unknown key `special_tokens.pad_tokn` … `pad_token`"),
    add("in fsdp_config", FSDP + "  auto_wrap_polcy: TRANSFORMER_BASED_WRAP",
        "unknown key `fsdp_config.auto_wrap_polcy` … `auto_wrap_policy`", at="auto_wrap_polcy"),
    add("in fsdp_config with the old prefix", FSDP + "  fsdp_ofload_params: true",
        "unknown key `fsdp_config.fsdp_ofload_params` … `offload_params`", at="fsdp_ofload"),
    add("in trl", "trl:\n  betta: 0.1", "unknown key `trl.betta` … `beta`", at="betta"),
    BrokenRecipe("key summarization", [("\nsummarization:", "\nsumarization:")], [
        ("sumarization:", "unknown key `sumarization` … `summarization`")]),
    swap("in summarization", "  train_rows:", "  train_row:",
         "unknown key `summarization.train_row` … `train_rows`", at="train_row:"),
    swap("required in summarization", "  license:", "  licence:",
         "unknown key `summarization.licence` … `license`", at="licence:"),
    swap("no similar key in summarization", "  train_rows: all", "  num_beams: 4",
         "unknown key `summarization.num_beams` … known keys … source, … decoding,"),
    swap("in cleaning", "  train_rows: all", "  cleaning: {decontaminat: false}",
         "unknown key `summarization.cleaning.decontaminat` … `decontaminate`"),
    swap("in decoding", "    max_new_tokens:", "    max_new_token:",
         "unknown key `summarization.decoding.max_new_token` … `max_new_tokens`",
         at="max_new_token:"),
    swap("in training_rouge", *ROUGE_100[:1], "  training_rouge:\n    dialogue: 100",
         "unknown key `summarization.training_rouge.dialogue` … `dialogues`", at="dialogue: 100"),
]  # fmt: skip

TWICE = [
    add("twice", "seed: 43", "`seed` … twice"),
    add("twice with the same value", "adapter: lora  # again", "`adapter` … twice", at="# again"),
    BrokenRecipe("three times", [("", "seed: 1\nseed: 2\n")], [
        ("seed: 1", "`seed` … twice"),
        ("seed: 2", "`seed` … twice"),
    ]),
    swap("twice in summarization", "  train_rows: all", "  train_rows: all\n  train_rows: 5",
         "`train_rows` … twice", at="train_rows: 5"),
    swap("twice in datasets", "    split: train", "    split: train\n    ds_type: json #",
         "`ds_type` … twice", at="ds_type: json #"),
    add("twice on one line", "special_tokens: {pad_token: <unk>, pad_token: <pad>}",
        "`pad_token` … twice"),
]  # fmt: skip

PLUGINS = [
    BrokenRecipe("without our plugin", [(f"plugins:\n  - {OURS}\n", "")], [
        (None, f"our plugin … missing … add `- {OURS}`")], reaches_our_plugin=False),
    BrokenRecipe("key plugins", [("\nplugins:", "\nplugin:")], [
        ("plugin:", "unknown key `plugin` … `plugins`")], reaches_our_plugin=False),
    BrokenRecipe("our plugin misspelt", [("SummarizationPlugin", "SummarisationPlugin")], [
        ("SummarisationPlugin",
         f"plugin `{OURS.replace('riz', 'ris')}` … no attribute … did you mean `{OURS}`"),
    ], reaches_our_plugin=False),
    swap("another plugin misspelt", OURS, f"{OURS}\n  - axolotl.integrations.ligr.LigerPlugin",
         "plugin `axolotl.integrations.ligr.LigerPlugin` … No module … name … install", at="ligr"),
]  # fmt: skip

SEVERAL = [
    BrokenRecipe("several", [
        ("  train_rows: all", "  train_row: all"), ("lora_r: 16", "lora_rank: 16"),
        ("learning_rate: 0.001", "learning_rate: 1e-3"),
        ("warmup_ratio: 0.05", "warmup_ratio: [0.1]"),
        ("", "load_in_4bit: true\nseed: 7\n")], [
        ("train_row:", "unknown key `summarization.train_row` … `train_rows`"),
        ("lora_rank", "unknown key `lora_rank` … `lora_r`"),
        ("learning_rate: 1e", "`learning_rate`: 1e-3 … text … write 0.001"),
        ("warmup_ratio", "`warmup_ratio` … number … [0.1]"),
        ("load_in_4bit", "`load_in_4bit: true` … not quantised … `adapter: qlora`"),
        ("seed: 7", "`seed` … twice"),
    ]),
    BrokenRecipe("several in summarization", [
        ("  train_rows: all", "  train_rows: 0\n  cleaning:\n    drop_empty: 1"),
        ("  license: CC0-1.0\n", ""),
        ("    dtype: float32", "    dtype: float31\n    top_k: -1\n    num_beams: 2.5")], [
        ("\nsummarization:"[1:] + "\n", "`summarization.license` … missing"),
        ("train_rows: 0",
         "`summarization.train_rows` … `all` or a whole number above 0 … 0"),
        ("drop_empty", "`summarization.cleaning.drop_empty` … boolean … 1"),
        ("dtype:", "`summarization.decoding.dtype` … 'bfloat16' … 'float31'"),
        ("top_k", "`summarization.decoding.top_k` … greater than or equal to 0 … -1"),
        ("num_beams", "`summarization.decoding.num_beams` … integer … 2.5"),
    ]),
    BrokenRecipe("decoding settings without effect", [
        ("    dtype: float32", "    top_p: 0.9\n    length_penalty: 2.0\n    seed: 3")], [
        ("top_p", "top_p … no effect … `do_sample: true`"),
        ("length_penalty", "length_penalty … no effect … `num_beams`"),
        ("seed: 3", "seed … no effect … `do_sample: true`"),
    ]),
    BrokenRecipe("packing with a misspelt attention", [
        ("group_by_length: true", "sample_packing: true"),
        ("attn_implementation:", "attn_implementaton:")], [
        ("attn_implementaton", "unknown key `attn_implementaton` … `attn_implementation`")]),
]  # fmt: skip

BROKEN: list[BrokenRecipe] = [
    *MISSPELT, *TWICE, *NUMBERS_AS_TEXT, *WRONG_VALUES, *CONTRADICTIONS, *PLUGINS, *SEVERAL,
]  # fmt: skip
