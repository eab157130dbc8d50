"""How the page looks: the report's colours, fonts that are there already, one style sheet."""

from pathlib import Path
from typing import Any

import gradio as gr

STYLE = Path(__file__).parent / "templates/page.css"
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Liberation Sans"]
COLOURS = {  # those of the report: light, then dark
    "button_primary_background_fill": "#0b6e99",
    "button_primary_background_fill_dark": "#0b6e99",
    "button_primary_background_fill_hover": "#0a5a8c",
    "button_primary_background_fill_hover_dark": "#0a5a8c",
    "body_text_color_subdued": "#56606c",
    "body_text_color_subdued_dark": "#a5aeb9",
    "input_placeholder_color": "#56606c",
    "input_placeholder_color_dark": "#a5aeb9",
    "body_background_fill_dark": "#14171b",
    "block_background_fill_dark": "#1d2126",
    "input_background_fill_dark": "#14171b",
}


def theme() -> Any:
    """Gradio's default theme, which would take its fonts from Google, in our colours."""
    mono = ["ui-monospace", "Consolas", "Liberation Mono", "monospace"]
    theme = gr.themes.Default(font=[*FONTS, "sans-serif"], font_mono=mono)
    return theme.set(**COLOURS)
