"""How the page looks: colours, fonts, style sheet and script. Everything is served from this package."""

from pathlib import Path

import gradio as gr

ASSETS = Path(__file__).parent / "assets"
ASSETS_ROUTE = "/chatui-assets"
FAVICON = ASSETS / "favicon.svg"

ACCENT = gr.themes.Color(
    c50="#fff6ed",
    c100="#ffead5",
    c200="#fed0aa",
    c300="#fdaf74",
    c400="#fb873c",
    c500="#f06516",
    c600="#d94f0c",
    c700="#b43c0c",
    c800="#8f3112",
    c900="#742b12",
    c950="#3f1307",
    name="ember",
)


TEXT = gr.themes.sizes.Size(
    name="text_rem",
    xxs="0.5625rem",
    xs="0.625rem",
    sm="0.75rem",
    md="0.875rem",
    lg="1rem",
    xl="1.375rem",
    xxl="1.625rem",
)
"""Gradio's sizes of text, which grow with the one that the reader's browser is set to."""


def theme() -> gr.themes.Base:
    """Warm greys, one accent colour, bundled fonts."""
    return gr.themes.Base(
        primary_hue=ACCENT,
        secondary_hue=gr.themes.colors.stone,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_lg,
        text_size=TEXT,
        font=["Inter Variable", "system-ui", "sans-serif"],
        font_mono=["JetBrains Mono Variable", "ui-monospace", "monospace"],
    ).set(
        body_background_fill="#fdfcfb",
        body_background_fill_dark="#171412",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#1f1b18",
        background_fill_secondary="#f7f5f3",
        background_fill_secondary_dark="#1b1815",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_border_width_dark="0px",
        block_shadow="none",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        block_title_text_weight="500",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        border_color_primary="*neutral_200",
        border_color_primary_dark="#37302b",
        input_background_fill="#ffffff",
        input_background_fill_dark="#25201c",
        input_border_width="1px",
        input_border_width_dark="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="#453d37",
        input_border_color_focus="*primary_500",
        input_border_color_focus_dark="*primary_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        button_primary_border_color="transparent",
        button_primary_border_color_dark="transparent",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
        code_background_fill="*neutral_100",
        code_background_fill_dark="#2a2521",
    )
