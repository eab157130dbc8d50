"""Whether a recipe will choose its best checkpoint as it says, or Axolotl quietly does not.

Axolotl leaves `load_best_model_at_end` on only where evaluation and saving fit together, and passes
`greater_is_better` on only where it is true (core/builders/causal.py of 0.19.0).
"""

from collections.abc import Iterator
from typing import Any

from data_prep.strict.yaml_lines import Problem

Config = dict[str, Any]
GENERATED = [f"eval_rouge{kind}" for kind in ("1", "2", "L", "Lsum")]


def best_checkpoint_problems(config: Config) -> Iterator[Problem]:
    """Every reason why the final adapter would not be the one that the recipe means."""
    for look in (_conditions, _use, _metric, _direction):
        yield from look(config)


def number(value: Any) -> float | None:
    """A value as a number; None where it is none."""
    return float(value) if isinstance(value, (int, float)) and type(value) is not bool else None


def is_on(value: Any) -> bool:
    """Whether Axolotl takes a value as `true`: it reads some words as that too."""
    return str(value).lower() in {"true", "1", "yes", "on", "y", "t"}


def _steps(config: Config, kind: str) -> float | None:
    """As Axolotl counts them: so many an epoch are a fraction of all steps."""
    an_epoch, epochs = number(config.get(f"{kind}s_per_epoch")), config.get("num_epochs", 1.0)
    if an_epoch and number(epochs) and (fraction := 1.0 / (an_epoch * epochs)) < 1.0:
        return fraction
    return number(config.get(f"{kind}_steps"))


def _conditions(config: Config) -> Iterator[Problem]:
    wanted = [
        *(["load_best_model_at_end"] if is_on(config.get("load_best_model_at_end")) else []),
        *(["early_stopping_patience"] if number(config.get("early_stopping_patience")) else []),
    ]
    if not wanted:
        return
    if "early_stopping_patience" in wanted:  # Axolotl looks at the numbers themselves
        save, evaluate = number(config.get("save_steps")), number(config.get("eval_steps"))
    else:
        save, evaluate = _steps(config, "save"), _steps(config, "eval")
    unset = [key for key, steps in (("eval_steps", evaluate), ("save_steps", save)) if not steps]
    lacks = [(key,) for key in unset]
    if not config.get("test_datasets") and not number(config.get("val_set_size")):
        why, mend = "there are no evaluation data", "set `test_datasets`"
        lacks = [("test_datasets",), ("val_set_size",)]
    elif unset:
        why = f"{' and '.join(f'`{key}`' for key in unset)} {'is' if len(unset) == 1 else 'are'}"
        why += " not set"
        mend = "set `eval_steps`, and `save_steps` to a multiple of it, in place of `eval_strategy`"
        mend += " and `save_strategy`"
    elif save and evaluate and save % evaluate:
        why = f"saving every {save:g} steps is no multiple of evaluating every {evaluate:g}"
        mend = "set `save_steps` to a multiple of `eval_steps`"
    else:
        return
    names = " and ".join(f"`{key}`" for key in wanted)
    what = f"{names} would be turned off: {why}"
    yield Problem((wanted[0],), what, mend, lacks=tuple(lacks))


def _use(config: Config) -> Iterator[Problem]:
    metric = config.get("metric_for_best_model")
    used = is_on(config.get("load_best_model_at_end")) or config.get("early_stopping_patience")
    # the two schedulers that step on the metric
    used = used or config.get("lr_scheduler") in ("reduce_lr_on_plateau", "greedy")
    if metric is not None and not used and config.get("save_strategy") != "best":
        yield Problem(
            ("metric_for_best_model",),
            f"`metric_for_best_model: {metric}` chooses nothing: the last weights are kept",
            "set `load_best_model_at_end: true`, or remove it",
            lacks=(("load_best_model_at_end",), ("early_stopping_patience",)),
        )


def _metric(config: Config) -> Iterator[Problem]:
    metric, loc = config.get("metric_for_best_model"), ("metric_for_best_model",)
    if not isinstance(metric, str) or "rouge" not in metric.lower():
        return
    if metric not in GENERATED and f"eval_{metric}" not in GENERATED:
        what = f"`metric_for_best_model: {metric}` is unknown"
        yield Problem(loc, what, f"use one of {', '.join(GENERATED)}")
        return
    block = config.get("summarization")
    rouge = block.get("training_rouge") if isinstance(block, dict) else None
    if not isinstance(rouge, dict) or not rouge.get("dialogues"):
        place = ("summarization", "training_rouge")
        yield Problem(
            loc,
            f"`metric_for_best_model: {metric}` is never computed: "
            "`summarization.training_rouge.dialogues` is 0",
            "set it, to 100 for instance",
            lacks=(place, (*place, "dialogues")),
        )


def _direction(config: Config) -> Iterator[Problem]:
    """Axolotl passes `greater_is_better: true` on, and drops `false`."""
    metric, greater = config.get("metric_for_best_model") or "loss", config.get("greater_is_better")
    if not isinstance(metric, str) or type(greater) is not bool:
        return
    is_loss = metric.endswith("loss")
    if is_loss and greater:
        what = f"`greater_is_better: true` would keep the checkpoint with the highest {metric}"
        yield Problem(("greater_is_better",), what, "remove it")
    if not is_loss and not greater:
        what = f"`greater_is_better: false` is dropped by Axolotl: a higher {metric} still wins"
        mend = "remove it" if "rouge" in metric else "choose a metric of which more is better"
        yield Problem(("greater_is_better",), what, mend)
