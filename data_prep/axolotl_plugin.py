"""Where recipes of the first release name our plugin; it has moved. To be removed with 0.2."""

import sys

from training.plugin import SummarizationArgs, SummarizationPlugin

__all__ = ["SummarizationArgs", "SummarizationPlugin"]
print(
    "note: plugins: data_prep.axolotl_plugin.SummarizationPlugin is now "
    "training.plugin.SummarizationPlugin; change that line of the recipe",
    file=sys.stderr,
)
