"""Command-line options; the help shows each option's default and ends with examples.

Use: `Options("eval.run", "What it does.", "recipes/smollm2_samsum.yml --limit 20")`, and then like
any argparse parser.
"""

import argparse


class Options(argparse.ArgumentParser):
    """A command's argument parser; tests/test_help.py parses its examples."""

    def __init__(self, module: str, description: str, *examples: str, more: str = ""):
        """`examples`: arguments that together use every option; `more`: a paragraph after them."""
        lines = [f"  python -m {module} {example}" for example in examples]
        lines += ["", "--debug, with any command: also print the traceback of an error", more]
        super().__init__(
            f"python -m {module}",
            description=description,
            epilog="\n".join(["examples:", *lines]).rstrip(),
            formatter_class=Help,
        )


class Help(argparse.RawDescriptionHelpFormatter):
    """Help layout that adds an option's default, unless its text mentions it already."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if "default" in text or action.required or default in (None, argparse.SUPPRESS):
            return text
        return f"{text} (default: {'no' if default is False else '%(default)s'})"
