"""The theme: colours, fonts and text sizes, and where the style sheets and scripts are. All are served by us."""

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
"""Gradio's text sizes in rem, so that they follow the font size set in the browser."""

GRADIO_COLOURS: dict[str, tuple[str, str]] = {
    "body_background_fill": ("#fdfcfb", "#171412"),
    "background_fill_primary": ("#ffffff", "#1f1b18"),
    "background_fill_secondary": ("#f7f5f3", "#1b1815"),
    "block_background_fill": ("transparent", "transparent"),
    "block_info_text_color": ("*neutral_600", "*neutral_400"),
    "block_label_text_color": ("*neutral_600", "*neutral_300"),
    "block_title_text_color": ("*neutral_800", "*neutral_100"),
    "body_text_color": ("*neutral_800", "*neutral_100"),
    "body_text_color_subdued": ("*neutral_600", "*neutral_400"),
    "border_color_primary": ("*neutral_200", "#37302b"),
    "input_background_fill": ("#ffffff", "#25201c"),
    "input_border_color": ("*neutral_300", "#453d37"),
    "input_border_color_focus": ("*primary_500", "*primary_400"),
    "input_placeholder_color": ("*neutral_500", "*neutral_400"),
    "button_primary_background_fill": ("*primary_700", "*primary_700"),
    "button_primary_background_fill_hover": ("*primary_800", "*primary_800"),
    "button_primary_text_color": ("#ffffff", "#ffffff"),
    "button_primary_border_color": ("transparent", "transparent"),
    "slider_color": ("*primary_600", "*primary_400"),
    "link_text_color": ("*primary_700", "*primary_300"),
    "code_background_fill": ("*neutral_100", "#2a2521"),
}
"""Light and dark values of Gradio's theme variables; `*name` refers to another variable."""

OWN_COLOURS: dict[str, tuple[str, str]] = {
    "bubble": ("#f3efeb", "#2b2521"),
    "danger": ("#b3261e", "#ff8a7f"),
    "danger_fill": ("#fdf1ef", "#2d1a17"),
}
"""Light and dark values of our own variables, which Gradio's theme does not have."""

PRERENDER_COLOURS = (
    "body_background_fill",
    "background_fill_secondary",
    "border_color_primary",
    "body_text_color",
    "body_text_color_subdued",
    "link_text_color",
    "code_background_fill",
)
"""Gradio's variables that prerender.css uses before Gradio's own style sheet is loaded."""


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
        **{name: light for name, (light, _) in GRADIO_COLOURS.items()},
        **{f"{name}_dark": dark for name, (_, dark) in GRADIO_COLOURS.items()},
        block_border_width="0px",
        block_border_width_dark="0px",
        block_shadow="none",
        block_title_text_weight="500",
        input_border_width="1px",
        input_border_width_dark="1px",
    )


def prerender_css() -> str:
    """CSS rules with the variables that the page needs before Gradio's theme is loaded: our own and prerender.css's.

    Dark values apply below an element with the class `dark`, as in Gradio's own style sheet.
    """
    palette = theme()

    def resolve(value: str) -> str:
        return str(getattr(palette, value[1:])) if value.startswith("*") else value

    colours = OWN_COLOURS | {name: GRADIO_COLOURS[name] for name in PRERENDER_COLOURS}
    light = {"primary_500": palette.primary_500} | {name: resolve(pair[0]) for name, pair in colours.items()}
    dark = {name: resolve(pair[1]) for name, pair in colours.items()}
    return f":root {{ {_declarations(light)} }} .dark {{ {_declarations(dark)} }}"


def _declarations(values: dict[str, str]) -> str:
    return " ".join(f"--{name.replace('_', '-')}: {value};" for name, value in values.items())
