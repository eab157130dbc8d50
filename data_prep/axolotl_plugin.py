"""Where recipes of the first release name our plugin; it has moved. To be removed with 0.3."""

import warnings

from training.plugin import SummarizationArgs, SummarizationPlugin

__all__ = ["SummarizationArgs", "SummarizationPlugin"]
warnings.warn(
    "plugins: data_prep.axolotl_plugin.SummarizationPlugin is now "
    "training.plugin.SummarizationPlugin; change that line of the recipe",
    FutureWarning,
    stacklevel=1,
)
