"""The table of broken recipes, each with all the messages that it must get.

Each is recipes/smollm2_samsum.yml with a change to its text, so that the lines are real ones.
"""

from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

BASE = (ROOT / "recipes/smollm2_samsum.yml").read_text("utf-8")
OURS = "data_prep.axolotl_plugin.SummarizationPlugin"
FSDP = "fsdp_version: 2\nfsdp_config:\n"
BEST = "load_best_model_at_end: true\n"
STEPS = ("eval_strategy: epoch\nsave_steps: 250", "eval_steps: 10\nsave_steps: 20")
ROUGE_100 = ("  train_rows: all", "  train_rows: all\n  training_rouge:\n    dialogues: 100")
FIT = (
    "set `eval_steps`, and `save_steps` to a multiple of it, in place of `eval_strategy` and "
    "`save_strategy`"
)


@dataclass(frozen=True)
class BrokenRecipe:
    """One of them.

    `edits` are (old, new) texts, where an empty old one means the end; `says` are the problems in
    their order, each with a text that stands once and marks its line, or none for no line.
    `reaches_our_plugin` is false where Axolotl does not call our plugin, so that only preflight and
    the recipe reader can refuse it.
    """

    name: str
    edits: list[tuple[str, str]]
    says: list[tuple[str | None, str]]
    reaches_our_plugin: bool = True

    def text(self) -> str:
        """The recipe; fails where the text to replace does not stand once."""
        text = BASE
        for old, new in self.edits:
            assert not old or text.count(old) == 1, f"{self.name}: {old!r}"
            text = text.replace(old, new) if old else text + new
        return text

    def write(self, folder: Path) -> Path:
        """Put it into a folder; return its path."""
        path = folder / f"{self.name.replace(' ', '_')}.yml"
        path.write_text(self.text(), "utf-8")
        return path

    def messages(self, path: Path) -> list[str]:
        """The whole of what must be said of it, in order."""
        return [f"{path}{self._line(at)}: {message}" for at, message in self.says]

    def _line(self, at: str | None) -> str:
        if at is None:
            return ""
        text = self.text()
        assert text.count(at) == 1, f"{self.name}: {at!r} marks no line"
        return f":{text[: text.index(at)].count(chr(10)) + 1}"


def add(name: str, lines: str, says: str, at: str = "") -> BrokenRecipe:
    """A recipe with lines at its end; the problem is in the first, or where `at` stands."""
    return BrokenRecipe(name, [("", lines + "\n")], [(at or lines.split("\n")[0], says)])


def swap(name: str, old: str, new: str, says: str, at: str = "") -> BrokenRecipe:
    """A recipe with one text in place of another; the problem is in it, or where `at` stands."""
    return BrokenRecipe(name, [(old, new)], [(at or new, says)])


MISSPELT = [
    swap("top level", "lora_r: 16", "lora_rank: 16",
         "unknown key `lora_rank`; did you mean `lora_r`?"),
    swap("required key", "learning_rate:", "learning_rat:",
         "unknown key `learning_rat`; did you mean `learning_rate`?"),
    swap("base model", "base_model: models", "base_modle: models",
         "unknown key `base_modle`; did you mean `base_model`?"),
    swap("output folder", "output_dir:", "output_dirs:",
         "unknown key `output_dirs`; did you mean `output_dir`?"),
    add("nothing like it", "zzzzzz: 1",
        "unknown key `zzzzzz`; remove it, or see Axolotl's documentation"),
    add("given up by axolotl", "unsloth_lora_mlp: true",
        "unknown key `unsloth_lora_mlp`; `unsloth_lora_mlp` has been removed. Please use "
        "`lora_mlp_kernel`, `lora_qkv_kernel`, `lora_o_kernel` instead. See: "
        "https://docs.axolotl.ai/docs/lora_optims.html"),
    swap("datasets itself", "\ndatasets:", "\ndataset:",
         "unknown key `dataset`; did you mean `datasets`?", at="dataset:\n  - path: data/smollm2"),
    swap("in datasets", "train.jsonl\n    ds_type:", "train.jsonl\n    ds_typ:",
         "unknown key `datasets[0].ds_typ`; did you mean `ds_type`?", at="ds_typ:"),
    swap("path in datasets", "path: data/smollm2_samsum/train", "pth: data/smollm2_samsum/train",
         "unknown key `datasets[0].pth`; did you mean `path`?", at="pth: data"),
    swap("key of dpo in datasets", "train.jsonl\n", "train.jsonl\n    field_rejected: worse\n",
         "unknown key `datasets[0].field_rejected`; did you mean `field`?",
         at="field_rejected"),
    swap("deep in datasets", "train.jsonl\n    ds_type: json\n    type: chat_template",
         "train.jsonl\n    type: {system_promt: none, field_output: answer}",
         "unknown key `datasets[0].type.system_promt`; did you mean `system_prompt`?",
         at="system_promt"),
    swap("in test_datasets", "    split: train", "    splits: train",
         "unknown key `test_datasets[0].splits`; did you mean `split`?", at="splits:"),
    add("in special_tokens", "special_tokens:\n  pad_tokn: <unk>",
        "unknown key `special_tokens.pad_tokn`; did you mean `pad_token`?", at="pad_tokn"),
    add("in special_tokens on one line", 'special_tokens: {eos_token: "</s>", pad_tokn: <unk>}',
        "unknown key `special_tokens.pad_tokn`; did you mean `pad_token`?"),
    add("in fsdp_config", FSDP + "  auto_wrap_polcy: TRANSFORMER_BASED_WRAP",
        "unknown key `fsdp_config.auto_wrap_polcy`; did you mean `auto_wrap_policy`?",
        at="auto_wrap_polcy"),
    add("in fsdp_config with its old prefix", FSDP + "  fsdp_ofload_params: true",
        "unknown key `fsdp_config.fsdp_ofload_params`; did you mean `offload_params`?",
        at="fsdp_ofload"),
    add("in trl", "trl:\n  betta: 0.1",
        "unknown key `trl.betta`; did you mean `beta`?", at="betta"),
    BrokenRecipe("the block itself", [("\nsummarization:", "\nsumarization:")], [
        ("sumarization:", "unknown key `sumarization`; did you mean `summarization`?")]),
    swap("in summarization", "  train_rows:", "  train_row:",
         "unknown key `summarization.train_row`; did you mean `train_rows`?", at="train_row:"),
    swap("required in summarization", "  license:", "  licence:",
         "unknown key `summarization.licence`; did you mean `license`?", at="licence:"),
    swap("nothing like it in summarization", "  train_rows: all", "  num_beams: 4",
         "unknown key `summarization.num_beams`; known there: source, revision, license, "
         "dialogue_column, summary_column, train_rows, instruction, cleaning, decoding, "
         "metrics, training_rouge, publish, eval_on_start"),
    swap("in cleaning", "  train_rows: all", "  cleaning: {decontaminat: false}",
         "unknown key `summarization.cleaning.decontaminat`; did you mean `decontaminate`?"),
    swap("in decoding", "    max_new_tokens:", "    max_new_token:",
         "unknown key `summarization.decoding.max_new_token`; did you mean `max_new_tokens`?",
         at="max_new_token:"),
    swap("in training_rouge", *ROUGE_100[:1], "  training_rouge:\n    dialogue: 100",
         "unknown key `summarization.training_rouge.dialogue`; did you mean `dialogues`?",
         at="dialogue: 100"),
]  # fmt: skip

TWICE = [
    add("twice", "seed: 43", "`seed` stands twice; keep one"),
    add("twice with the same value", "adapter: lora  # again", "`adapter` stands twice; keep one",
        at="# again"),
    BrokenRecipe("thrice", [("", "seed: 1\nseed: 2\n")], [
        ("seed: 1", "`seed` stands twice; keep one"), ("seed: 2", "`seed` stands twice; keep one")
    ]),
    swap("twice in summarization", "  train_rows: all", "  train_rows: all\n  train_rows: 5",
         "`train_rows` stands twice; keep one", at="train_rows: 5"),
    swap("twice in datasets", "    split: train", "    split: train\n    ds_type: csv",
         "`ds_type` stands twice; keep one", at="ds_type: csv"),
    add("twice on one line", "special_tokens: {pad_token: <unk>, pad_token: <pad>}",
        "`pad_token` stands twice; keep one"),
]  # fmt: skip

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
    swap("number of ours", "    max_new_tokens: 128", "    repetition_penalty: 11e-1",
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
        ("plugins: data", "`plugins`: must be a valid list (found 'data_prep.ax...izationPlugin')")
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
    swap("no value of ours", "  license: CC0-1.0", "  license:",
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
    swap("two ways to warm up", "warmup_ratio: 0.05", "warmup_ratio: 0.05\nwarmup_steps: 5",
         "Axolotl refuses `warmup_steps`: warmup_steps and warmup_ratio are mutually exclusive",
         at="warmup_steps: 5"),
    swap("rows of ours", "train_rows: all", "train_rows: some",
         "`summarization.train_rows`: must be `all` or a whole number above 0 (found 'some')"),
    swap("switch of ours", "  train_rows: all", "  cleaning: {drop_empty: 'yes'}",
         "`summarization.cleaning.drop_empty`: must be a valid boolean (found 'yes')"),
    swap("no place for the dialogue", "    {dialogue}\n", "    the dialogue\n",
         "`summarization.instruction`: must hold {dialogue} once, where the dialogue goes "
         "(found 'Summarize th...nthe dialogue')", at="  instruction:"),
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
         "`sample_packing: true` without `attn_implementation` lets the dialogues of a pack see "
         "each other; set `attn_implementation: flash_attention_2`, or `sdpa`")]),
    BrokenRecipe("packing with an attention that leaks", [
        ("group_by_length: true", "sample_packing: true"),
        ("attn_implementation: sdpa", "attn_implementation: fp8")], [
        ("attn_implementation: fp8",
         "`attn_implementation: fp8` with `sample_packing: true` lets the dialogues of a pack see "
         "each other; use `flash_attention_2` or `sdpa`")]),
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
        (BEST, "`load_best_model_at_end` would be turned off: saving every 50 steps is no multiple "
               "of evaluating every 20; set `save_steps` to a multiple of `eval_steps`")]),
    BrokenRecipe("best model by epochs", [
        ("", BEST),
        ("eval_strategy: epoch\nsave_steps: 250", "evals_per_epoch: 3\nsaves_per_epoch: 2")], [
        (BEST, "`load_best_model_at_end` would be turned off: saving every 0.5 steps is no multiple"
               " of evaluating every 0.333333; set `save_steps` to a multiple of `eval_steps`")]),
    add("early stopping by epochs", "early_stopping_patience: 3",
        f"`early_stopping_patience` would be turned off: `eval_steps` is not set; {FIT}"),
    BrokenRecipe("rouge that nobody computes", [
        ("", BEST + "metric_for_best_model: eval_rougeL\n"), STEPS], [
        ("metric_for", "`metric_for_best_model: eval_rougeL` is never computed: "
                       "`summarization.training_rouge.dialogues` is 0; set it, to 100 for instance")
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
        "`metric_for_best_model: eval_loss` chooses nothing: the last weights are kept; set "
        "`load_best_model_at_end: true`, or remove it"),
    add("checkpoints without their optimizer", "save_only_model: true",
        "`save_only_model: true` leaves the optimizer out of the checkpoints, so that a run that "
        "was interrupted cannot go on as it was; remove it"),
    swap("test on the training rows", "validation.jsonl", "train.jsonl",
         "`test_datasets[0].path` is data/smollm2_samsum/train.jsonl; data_prep writes "
         "validation.jsonl, both sets into one folder",
         at="  - path: data/smollm2_samsum/train.jsonl\n    ds_type: json\n    type: chat_template"
            "\n    split"),
    swap("train on the test rows", "\ntest_datasets:",
         "\n  - path: data/smollm2_samsum/validation.jsonl  # too\ntest_datasets:",
         "`datasets[1].path` is data/smollm2_samsum/validation.jsonl, which is in `test_datasets` "
         "too; a model must not be tested on what it learns: remove it", at="# too"),
]  # fmt: skip

PLUGINS = [
    BrokenRecipe("without our plugin", [(f"plugins:\n  - {OURS}\n", "")], [
        (None, "our plugin is not under `plugins:`, so that training would check nothing of this; "
               f"add `- {OURS}` there")], reaches_our_plugin=False),
    BrokenRecipe("plugins itself", [("\nplugins:", "\nplugin:")], [
        ("plugin:", "unknown key `plugin`; did you mean `plugins`?")], reaches_our_plugin=False),
    BrokenRecipe("our plugin misspelt", [("SummarizationPlugin", "SummarisationPlugin")], [
        ("SummarisationPlugin",
         f"plugin `{OURS.replace('riz', 'ris')}` cannot be loaded (module "
         "'data_prep.axolotl_plugin' has no attribute 'SummarisationPlugin'), and Axolotl may "
         f"train without it; did you mean `{OURS}`?")], reaches_our_plugin=False),
    swap("another plugin misspelt", OURS, f"{OURS}\n  - axolotl.integrations.ligr.LigerPlugin",
         "plugin `axolotl.integrations.ligr.LigerPlugin` cannot be loaded (No module named "
         "'axolotl.integrations.ligr'), and Axolotl may train without it; correct its name, install"
         " its package, or remove it", at="ligr"),
]  # fmt: skip

SEVERAL = [
    BrokenRecipe("several", [
        ("  train_rows: all", "  train_row: all"), ("lora_r: 16", "lora_rank: 16"),
        ("learning_rate: 0.001", "learning_rate: 1e-3"),
        ("warmup_ratio: 0.05", "warmup_ratio: [0.1]"),
        ("", "load_in_4bit: true\nseed: 7\n")], [
        ("train_row:", "unknown key `summarization.train_row`; did you mean `train_rows`?"),
        ("lora_rank", "unknown key `lora_rank`; did you mean `lora_r`?"),
        ("learning_rate: 1e", "`learning_rate`: 1e-3 is text to YAML; write 0.001"),
        ("warmup_ratio", "`warmup_ratio`: must be a valid number (found [0.1])"),
        ("load_in_4bit",
         "`adapter: lora` with `load_in_4bit: true` trains a model that is not quantised; write "
         "`adapter: qlora`, or remove `load_in_4bit`"),
        ("seed: 7", "`seed` stands twice; keep one"),
    ]),
    BrokenRecipe("several in our block", [
        ("  train_rows: all", "  train_rows: 0\n  cleaning:\n    drop_empty: 1"),
        ("  license: CC0-1.0\n", ""),
        ("    dtype: float32", "    dtype: float31\n    top_k: -1\n    num_beams: 2.5")], [
        ("\nsummarization:"[1:] + "\n", "`summarization.license` is missing; set it"),
        ("train_rows: 0",
         "`summarization.train_rows`: must be `all` or a whole number above 0 (found 0)"),
        ("drop_empty", "`summarization.cleaning.drop_empty`: must be a valid boolean (found 1)"),
        ("dtype:", "`summarization.decoding.dtype`: must be 'auto', 'bfloat16' or 'float32' "
                   "(found 'float31')"),
        ("top_k", "`summarization.decoding.top_k`: must be greater than or equal to 0 (found -1)"),
        ("num_beams", "`summarization.decoding.num_beams`: must be a valid integer (found 2.5)"),
    ]),
    BrokenRecipe("settings of decoding without effect", [
        ("    dtype: float32", "    top_p: 0.9\n    length_penalty: 2.0\n    seed: 3")], [
        ("top_p", "`summarization.decoding`: top_p has no effect without `do_sample: true`"),
        ("length_penalty", "`summarization.decoding`: length_penalty has no effect without "
                           "`num_beams` above 1"),
        ("seed: 3", "`summarization.decoding`: seed has no effect without `do_sample: true`"),
    ]),
    BrokenRecipe("packing with a misspelt attention", [
        ("group_by_length: true", "sample_packing: true"),
        ("attn_implementation:", "attn_implementaton:")], [
        ("attn_implementaton", "unknown key `attn_implementaton`; did you mean "
                               "`attn_implementation`?")]),
]  # fmt: skip

BROKEN: list[BrokenRecipe] = [
    *MISSPELT, *TWICE, *NUMBERS_AS_TEXT, *WRONG_VALUES, *CONTRADICTIONS, *PLUGINS, *SEVERAL,
]  # fmt: skip
