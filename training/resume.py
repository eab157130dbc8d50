"""Training callbacks: progress, and exact resume, byte for byte as if never interrupted.

A restart in transformers (5.x) loses the order of the rows in a later epoch (drawn from a random
state that is gone), the loss summed since the last log, the patience of early stopping, and
whether any step is left. Ctrl-C saves a checkpoint and says how to resume.
"""

import os
import signal
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import TrainerCallback
from transformers.trainer_callback import EarlyStoppingCallback, ExportableState

from data_prep.console import Bar, say
from data_prep.machine import usage

LOSS_ATTRIBUTES = ("_tr_loss", "_total_loss_scalar", "_globalstep_last_logged")


class EpochOrder(Sampler[int]):
    """Wraps a sampler so that its order depends only on the seed and the epoch."""

    def __init__(self, inner: Any, seed: int, packs: Any = None):
        """`packs`: Axolotl's batch sampler around this one, which caches the order it got."""
        self.inner, self.seed, self.packs, self.epoch = inner, seed, packs, 0
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch
        if self.packs is not None:
            self.packs._batches = None

    def __iter__(self) -> Iterator[int]:
        """Return the epoch's row numbers; leaves the global random state unchanged."""
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            torch.manual_seed(self.seed + self.epoch)
            return iter(list(self.inner))

    def __len__(self) -> int:
        """Return the number of rows in an epoch."""
        return len(self.inner)


class ExactResume(TrainerCallback, ExportableState):
    """Keeps and restores what a restart would lose; needs `attach` once the trainer exists."""

    def __init__(self) -> None:
        """All state is empty until `attach`."""
        self.trainer: Any = None
        self.order: EpochOrder | None = None
        self.epoch = -1
        self.interrupted = 0

    def attach(self, trainer: Any) -> None:
        """Give the trainer's rows an order that a restart can repeat."""
        self.trainer = trainer
        get_sampler = trainer._get_train_sampler

        def ordered(*args: Any, **kwargs: Any) -> Any:
            sampler = get_sampler(*args, **kwargs)
            packed = hasattr(sampler, "generate_batches")  # Axolotl's MultipackBatchSampler
            inner = sampler.sampler if packed else sampler
            self.order = EpochOrder(inner, trainer.args.seed, sampler if packed else None)
            if packed:
                sampler.sampler = self.order
            return sampler if packed else self.order

        trainer._get_train_sampler = ordered

    def state(self) -> dict[str, Any]:
        """Return the loss since the last log; the trainer saves it in `trainer_state.json`."""
        loss = {name: float(getattr(self.trainer, name, 0)) for name in LOSS_ATTRIBUTES}
        return {"args": {}, "attributes": loss}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Restore the checkpoint's state, compute the epoch, and handle Ctrl-C and a hang-up."""
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:  # by nohup
                signal.signal(signum, self._on_signal)
        steps = max(-(-len(kwargs["train_dataloader"]) // args.gradient_accumulation_steps), 1)
        self.epoch = state.global_step // steps - 1
        state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        if state.global_step:
            self._restore(state)

    def _restore(self, state: Any) -> None:
        trainer, saved = self.trainer, state.stateful_callbacks
        loss = saved[type(self).__name__]["attributes"]
        trainer._tr_loss += loss["_tr_loss"]
        trainer._total_loss_scalar = loss["_total_loss_scalar"]
        trainer._globalstep_last_logged = int(loss["_globalstep_last_logged"])
        for callback in trainer.callback_handler.callbacks:
            name = type(callback).__name__
            if isinstance(callback, EarlyStoppingCallback) and name in saved:
                vars(callback).update(saved[name]["attributes"])
        stopped = saved.get("TrainerControl", {}).get("attributes", {}).get("should_training_stop")
        if stopped or state.global_step >= state.max_steps:  # transformers would do one more step
            trainer._run_epoch = lambda **_: setattr(trainer.control, "should_training_stop", True)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the order of the epoch, counted here because a restart would count from 0."""
        self.epoch += 1
        if self.order is not None:
            self.order.set_epoch(self.epoch)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After Ctrl-C: request a checkpoint, on every process at the same step."""
        if _any_process(bool(self.interrupted), args):
            self.interrupted = max(self.interrupted, 1)
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After Ctrl-C, with the checkpoint written: say how to resume, and exit."""
        if not self.interrupted:
            return
        if state.is_world_process_zero:
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            say(f"interrupted: {path} is saved; to resume, run the same command again", error=True)
        raise SystemExit(130)

    def _on_signal(self, signum: int, frame: Any) -> None:
        if signum == signal.SIGHUP:  # an ssh connection ended: its terminal is gone
            for place in (1, 2):
                with suppress(OSError):  # it may be closed
                    if not stat.S_ISREG(os.fstat(place).st_mode):  # a log file is not
                        os.dup2(os.open(os.devnull, os.O_WRONLY), place)
        self.interrupted += signum == signal.SIGINT or not self.interrupted
        if self.interrupted == 1:
            say("interrupted: saving a checkpoint after this step", error=True)
        elif signum == signal.SIGINT and self.interrupted > 2:  # a launcher may send a second one
            raise KeyboardInterrupt


def _any_process(flag: bool, args: Any) -> bool:
    """Return whether `flag` is set in any process; they must all act, or some would wait."""
    if args.world_size == 1:
        return flag
    flags = torch.tensor([flag], dtype=torch.int32, device=args.device)
    torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
    return bool(flags.item())


class Progress(TrainerCallback):
    """Shows the progress of training, the time left, losses and peak memory."""

    def __init__(self, bar: Bar | None = None) -> None:
        """`bar`: the bar shown until the first step."""
        self.bar = bar
        self.validation: Bar | None = None
        self.losses: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the bar; called once everything is loaded."""
        if self.bar:
            self.bar.__exit__()
        steps, shown = state.max_steps, state.is_world_process_zero
        self.bar = Bar("training", steps, "steps", state.global_step, shown).__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance the bar; called after each optimiser step."""
        if self.bar:
            self.bar.step(note=self._measured())

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the losses to show; called when the trainer logs."""
        for key, label in (("loss", "loss"), ("eval_loss", "validation")):
            if key in kwargs["logs"]:
                self.losses[key] = f"{label} {float(kwargs['logs'][key]):.3f}"

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance the bar of an evaluation; called after each of its batches."""
        if not self.validation:
            batches, shown = len(kwargs["eval_dataloader"]), state.is_world_process_zero
            self.validation = Bar("validating", batches, "batches", shown=shown).__enter__()
        self.validation.step()
        usage()  # before the peak is reset

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar of an evaluation; called at its end."""
        if self.validation:
            self.validation.__exit__()
            self.validation = None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar and report; called after the last step, before the adapter is saved."""
        if self.bar:
            self.bar.__exit__()
            self.bar.step(0, self._measured())
            if state.is_world_process_zero:
                say(f"trained {self.bar.state()}: {args.output_dir}")

    def _measured(self) -> str:
        return ", ".join([*self.losses.values(), f"peak {usage().peak_memory_gb:.1f} GB"])
