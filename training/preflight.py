"""Check a recipe before any GPU time is spent: `python -m training.preflight [RECIPE]`.

It checks recipe, data, prompt, lengths, steps, memory and output folder. Training runs the same
checks when it starts. If it finds problems, it prints a numbered list and exits with code 2.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

from data_prep.errors import UserError, printable, run_cli
from data_prep.hub import check_weights, empty_model, snapshot
from data_prep.options import Options
from data_prep.prepare import check_prepared
from data_prep.prompt import PromptEncoder
from data_prep.recipe import (
    DEFAULT_RECIPE,
    OUR_PLUGIN,
    Recipe,
    YamlFile,
    find_problems,
    load_recipe,
    read_yaml,
)
from eval.adapter import finished, settings_of
from training import run_record
from training.machine_checks import least_memory, lora_settings, machine_problems, what_to_change
from training.plan import check_lengths, count_tokens, evaluation_problems, plan, with_defaults
from training.prompt_checks import Parity, check_parity


@dataclass
class Report:
    """The results of preflight: `lines` with their topics, and `problems`, one line each."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    parity: Parity | None = None

    def say(self, topic: str, *texts: str) -> None:
        """Add lines under a topic."""
        self.lines += [(topic, text) for text in texts]

    def show(self, write: Callable[[str], None] = print) -> None:
        """Print the lines, with each topic shown once."""
        for topic, group in groupby(self.lines, lambda line: line[0]):
            for number, (_, text) in enumerate(group):
                write(f"{'' if number else topic:<8}{printable(text)}".rstrip())


def main() -> None:
    """Print the results; exit with code 2 if there are problems."""
    parser = Options(
        "training.preflight", __doc__.splitlines()[0], "recipes/smollm2_samsum.yml",
        "recipes/mistral_samsum.yml --gpu-memory 24 --no-sample",
    )  # fmt: skip
    add = parser.add_argument
    add("recipe", type=Path, nargs="?", default=DEFAULT_RECIPE, help="recipe file")
    add("--gpu-memory", type=float, metavar="GB", help="memory of the GPU that will train it "
        "(default: the GPU of this machine, if it has one)")  # fmt: skip
    add("--no-sample", action="store_true", help="do not print a sample row")
    args = parser.parse_args()
    config = YamlFile(args.recipe).data
    config = config if isinstance(config, dict) else read_yaml(args.recipe)
    for line in foreign_code(config):  # printed before that code runs, just below
        print(f"{'code':<8}{printable(line)}", flush=True)
    report, processes = Report(), run_record.processes()
    report.problems += find_problems(args.recipe, config)
    if not report.problems:
        finding = f"every key is known to Axolotl {version('axolotl')} or to us, and has an effect"
        report.say("recipe", f"{args.recipe}: {finding}")
        recipe = load_recipe(args.recipe)
        check_recipe(recipe, report, processes, args.gpu_memory)
        if not report.problems:
            _check_output(recipe, report, processes)
            # not a problem: recipes are often checked on one machine and trained on another
            lacks = machine_problems(recipe.path, recipe.config)
            report.say("machine", *(lacks or ["this machine has everything that the recipe needs"]))
        if report.parity and not args.no_sample:
            report.say("sample", *sample(report.parity))
    report.show()
    if report.problems:
        sys.stdout.flush()
        for number, problem in enumerate(report.problems, 1):
            print(f"{number}. {printable(problem)}", file=sys.stderr)
        sys.exit(2)
    print("ready: no problems found")


def foreign_code(config: dict[str, Any]) -> Iterator[str]:
    """Yield one line for each key that runs other people's code; some run in preflight too."""
    names, attention = config.get("plugins"), str(config.get("attn_implementation"))
    plugins = (
        [repr(name) for name in names if name != OUR_PLUGIN] if isinstance(names, list) else []
    )
    if plugins:
        yield f"`plugins:` runs the code of {', '.join(plugins)}, here and in training"
    if config.get("trust_remote_code"):
        base = config.get("base_model")
        yield f"`trust_remote_code:` runs the code that {base!r} ships, here and in every command"
    if "/" in attention:
        yield f"`attn_implementation:` runs the code of {attention!r} from the Hub in training"
    if config.get("use_kernels"):
        yield "`use_kernels:` runs compiled code from the Hub in training"
    trl = config.get("trl")
    rewards = trl.get("reward_funcs") if isinstance(trl, dict) else None
    for key, code in (("trainer_cls", config.get("trainer_cls")), ("trl.reward_funcs", rewards)):
        if code:
            yield f"`{key}:` runs the code of {code!r} in training"


def check_recipe(
    recipe: Recipe, report: Report, processes: int, gpu_memory: float | None = None
) -> None:
    """Run all checks after those of the recipe file itself; training calls this too.

    Stops at the first topic with a problem, because the later ones depend on it. `gpu_memory`: GB
    of the GPU that will train the recipe, if it is not the one in this machine.
    """
    try:
        manifest = check_prepared(recipe)
        row_counts = ", ".join(f"{n.written:,} {split}" for split, n in manifest.counts.items())
        report.say("data", f"{recipe.data_dir}: {row_counts} rows; the files match the manifest,")
        report.say("data", "and the manifest's settings match the recipe")
        report.say("data", *(f"note: {note}" for note in manifest.notes))

        problems, line = check_weights(recipe)
        report.problems += problems
        report.say("model", *filter(None, [line]))
        if report.problems:
            return

        parity = check_parity(recipe)
        report.problems += parity.problems
        report.parity = parity
        report.say("prompt", *parity.checked, f"a turn ends with {parity.end}")
        if not report.problems:
            end = parity.example.trained[-1]
            report.problems, lines = check_model(recipe, parity.encoder.tokenizer, end)
            report.say("adapter", *lines)
        if not report.problems:
            _check_work(recipe, report, parity.encoder, processes, gpu_memory)
    except UserError as error:
        report.problems.append(" ".join(str(error).split()))


def _check_work(
    recipe: Recipe, report: Report, encoder: PromptEncoder, processes: int, gpu_memory: float | None
) -> None:
    """Check the lengths, the steps and the least memory."""
    import torch

    lengths = count_tokens(recipe, encoder)
    lines, problems = check_lengths(recipe, lengths)
    report.say("length", *lines)
    report.problems += [*problems, *evaluation_problems(recipe, encoder)]
    if report.problems:
        return
    run_plan = plan(recipe, lengths["train"], processes)
    report.say("steps", *run_plan.lines)
    least = least_memory(recipe, run_plan.largest_batch)
    if least is None:
        report.say("memory", "no lower bound: not LoRA, or one GPU does not hold all weights")
        return
    report.say("memory", *least.lines)
    card, size = "the GPU of --gpu-memory", (gpu_memory or 0) * 1e9
    if gpu_memory is None and torch.cuda.is_available():
        card, size = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    if size and least.total > size:
        report.problems.append(
            f"{recipe.path}: needs at least {least.total / 1e9:.1f} GB on a GPU, and {card} has "
            f"{size / 1e9:.1f} GB; {what_to_change(recipe.config)}"
        )


def _check_output(recipe: Recipe, report: Report, processes: int) -> None:
    """Report what training would do in the output folder."""
    folder = recipe.output_dir
    report.problems += run_record.output_dir_problems(recipe.path, recipe.config)
    if report.problems:
        return
    try:
        settings = settings_of(recipe.config, check_prepared(recipe).files, processes)
        if checkpoint := recipe.config.get("resume_from_checkpoint"):
            run_record.check_resume(Path(str(checkpoint)), settings, processes)
        run_record.check_same_run(folder, settings)
    except UserError as error:
        report.problems.append(str(error))
        return
    steps, newest = finished(folder), run_record.newest_complete_checkpoint(folder, processes)
    status = f"resumes from {newest.name}" if newest else "nothing there yet"
    if steps is not None:
        status = f"already trained by this recipe on this data, {steps} steps"
    report.say("output", f"{folder}: {status}")


def sample(parity: Parity) -> Iterator[str]:
    """Yield the lines of one row as the model sees it, with the tokens in the loss marked."""
    row, tokenizer = parity.example, parity.encoder.tokenizer
    in_loss = [label != -100 for label in row.labels]
    text = ""
    for marked, group in groupby(zip(in_loss, row.ids, strict=True), lambda pair: pair[0]):
        part = tokenizer.decode([token for _, token in group], skip_special_tokens=False)
        text += f"[[{part}]]" if marked else part
    yield f"{sum(in_loss)} of {len(row.ids)} tokens are in the loss, marked [[...]]:"
    yield from text.split("\n")


# ---- does the recipe fit its base model? ----
# If not, training ends in a traceback or, worse, does not learn the task.

# The attribute of a model's class that shows support for a kind of attention; all support `eager`.
ATTENTION_SUPPORT = {"sdpa": "_supports_sdpa", "flash": "_supports_flash_attn",
             "flex": "_supports_flex_attn"}  # fmt: skip
# Embedding rows of tokens absent from the training text share one direction, see "Fishing for
# Magikarp" (Land and Bartolo, 2024). Cosines in SmolLM2-135M-Instruct: above 0.9999 for those,
# 0.991 for the end token, seen only in the last training stage, at most 0.974 for 2,000 others.
UNTRAINED_COSINE = 0.999
CHUNK_ROWS = 8192  # rows of the matrix read at once
ROUND_TRIP = ("Hello world", "Ana: see you at 7:30 tomorrow, ok?", "Zoë's café: 12 €\nBob: fine!")


def check_model(recipe: Recipe, tokenizer: Any, end: int) -> tuple[list[str], list[str]]:
    """Return the problems, one line each, and lines to report.

    `end`: id of the token that ends a summary in training. Raises UserError if the model's config
    cannot be read.
    """
    model = empty_model(recipe)
    lines, unmatched = _target_modules(recipe.config, model)
    problems = [*_attention(recipe.config, model), *unmatched, *_round_trip(tokenizer),
                *_end(recipe.config, model, end, tokenizer.convert_ids_to_tokens(end))]  # fmt: skip
    return [f"{recipe.path}: {problem}" for problem in problems], lines


def _attention(config: dict[str, Any], model: Any) -> Iterator[str]:
    chosen = str(with_defaults(config).get("attn_implementation") or "")
    flag = next((flag for kind, flag in ATTENTION_SUPPORT.items() if chosen.startswith(kind)), None)
    if flag and not getattr(model, flag, True):
        supported = "sdpa" if model._supports_sdpa else "eager"
        yield (
            f"attn_implementation: {chosen}: {type(model).__name__} does not support it; "
            f"set `attn_implementation: {supported}`"
        )
    capped = getattr(model.config.get_text_config(), "attn_logit_softcapping", None)
    if capped and not chosen.startswith(("eager", "flash", "flex")):
        yield (
            f"attn_implementation: {chosen or 'sdpa, the default,'} leaves out the soft-capping of "
            f"{type(model).__name__}; set `attn_implementation: eager`"
        )


def _target_modules(config: dict[str, Any], model: Any) -> tuple[list[str], list[str]]:
    """Return lines on the modules that LoRA changes, and a problem if names match nothing."""
    import torch
    from peft.tuners.tuners_utils import check_target_module_exists

    if config.get("adapter") not in ("lora", "qlora"):
        return [], []
    settings = lora_settings(config, model)
    targets, modules = settings.target_modules or [], dict(model.named_modules())
    if isinstance(targets, str):  # a regular expression
        matches = [name for name in modules if check_target_module_exists(settings, name)]
        counts = {targets: len(matches)}
    else:
        names = [*sorted(targets), *(settings.modules_to_save or [])]
        counts = {n: sum(m == n or m.endswith(f".{n}") for m in modules) for n in names}
    missing = [name for name, count in counts.items() if not count]
    dimensions = {name: weight.dim() for name, weight in model.named_parameters()}
    experts = sorted({".".join(n.split(".")[-2:]) for n, ndim in dimensions.items() if ndim == 3})
    if not missing:
        changed = ", ".join(f"{name} {count}" for name, count in counts.items())
        lines = [f"the adapter changes {changed} modules"]
        if experts and not settings.target_parameters:
            lines.append(
                f"the experts ({', '.join(experts)}) stay as they are: they are parameters; to "
                "train them, list them in `lora_target_parameters`"
            )
        return lines, []
    head = model.get_output_embeddings()
    linear_counts = Counter(
        name.rpartition(".")[2]
        for name, module in modules.items()
        if isinstance(module, torch.nn.Linear) and module is not head
    )
    layers = ", ".join(f"{name} {count}" for name, count in linear_counts.items())
    if experts:
        layers += f" (experts, for lora_target_parameters: {', '.join(experts)})"
    return [], [
        f"{', '.join(missing)} in lora_target_modules or lora_modules_to_save: {len(missing)} of "
        f"{len(counts)} names match no module of {type(model).__name__}; its linear layers are "
        f"{layers}: name some of them, or set `lora_target_linear: true` in place of the names"
    ]


def _end(config: dict[str, Any], model: Any, end: int, token: str) -> Iterator[str]:
    """Yield a problem if the end token's output-embedding row is untrained and stays so."""
    tied = model.config.get_text_config().tie_word_embeddings
    head = model.get_input_embeddings() if tied else model.get_output_embeddings()
    name = next(name for name, module in model.named_modules() if module is head)
    layer = name.rpartition(".")[2]
    trainable = config.get("peft_trainable_token_indices") or []
    trainable = [trainable] if isinstance(trainable, list) else trainable.values()
    targets = config.get("lora_target_modules") or []
    adapted = [targets] if isinstance(targets, str) else targets
    adapted = [*adapted, *(config.get("lora_modules_to_save") or [])]
    if not config.get("adapter") or layer in adapted or any(end in ids for ids in trainable):
        return
    if looks_untrained(config, f"{layer}.weight", end):
        ids = f"[{end}]" if tied else f"{{{layer}: [{end}]}}"
        yield (
            f"the model never learnt {token!r}, which ends a summary: its row of {layer} is like "
            f"unused tokens' and LoRA does not train it; add `peft_trainable_token_indices: {ids}`"
        )


def looks_untrained(config: dict[str, Any], name: str, row: int) -> bool:
    """Return whether a row of a base model's matrix is zero or parallel to another row.

    `name`: how the matrix's name ends. False if its file is not on this disk or is not a
    safetensors file.
    """
    import torch
    from safetensors import safe_open

    base = str(config["base_model"])
    folder = Path(base) if Path(base).is_dir() else snapshot(base, config)
    for path in sorted(folder.glob("*.safetensors")) if folder else []:
        with safe_open(path, "pt") as file:
            for key in (key for key in file.keys() if key.endswith(name)):  # noqa: SIM118
                matrix = file.get_slice(key)
                rows = matrix.get_shape()[0]
                if row >= rows:  # the tokenizer has more tokens than the model
                    return True
                vector = matrix[row : row + 1].float()
                if not vector.any():
                    return True
                for start in range(0, rows, CHUNK_ROWS):
                    chunk = matrix[start : start + CHUNK_ROWS].float()
                    cosines = torch.nn.functional.cosine_similarity(chunk, vector)
                    if start <= row < start + len(chunk):
                        cosines[row - start] = 0
                    if cosines.max() > UNTRAINED_COSINE:
                        return True
    return False


def _round_trip(tokenizer: Any) -> Iterator[str]:
    """Yield a problem if decoding does not restore a text: a badly converted tokenizer."""
    for text in ROUND_TRIP:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        back = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        if back.strip() != text:
            yield (
                f"the tokenizer of {tokenizer.name_or_path} turns {text!r} into {back!r}; take the "
                "model's own tokenizer files (one converted from GGUF may be wrong)"
            )
            return


if __name__ == "__main__":
    run_cli(main)
