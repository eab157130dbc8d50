"""The options of a command: its help tells each one's default, and ends with examples.

Use: `Options("eval.run", "What it does.", "recipes/smollm2_samsum.yml --limit 20")`, and then as
argparse's own parser.
"""

import argparse


class Options(argparse.ArgumentParser):
    """A parser of a command's arguments; tests/test_help.py runs its examples through it."""

    def __init__(self, module: str, description: str, *examples: str, more: str = ""):
        """`examples`: arguments that together use every option; `more`: a paragraph after them."""
        lines = [f"  python -m {module} {example}" for example in examples]
        lines += ["", "--debug, with any command: the traceback of an error too", more]
        super().__init__(
            f"python -m {module}",
            description=description,
            epilog="\n".join(["examples:", *lines]).rstrip(),
            formatter_class=Help,
        )


class Help(argparse.RawDescriptionHelpFormatter):
    """The layout of a help text; adds each option's default, where the text does not tell it."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if "default" in text or action.required or default in (None, argparse.SUPPRESS):
            return text
        return f"{text} (default: {'no' if default is False else '%(default)s'})"
