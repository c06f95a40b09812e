"""The names in Gradio's built page that our style sheets and scripts use (chatui/ui/page/assets).

Reached: class names, `data-testid`s, labels and the global `gradio_config` of the Svelte components in the package's
`templates/frontend`. Gradio promises none of them, and gives most components no other handle than `elem_id`.
Why: the page's appearance, accessible names, the clipboard, the focus, and the remembered state of the sidebars.
Upstream: each name occurs in the built style sheets or scripts. tests/contract/test_frontend.py checks that, and that
our assets use no other name of Gradio's.
"""

CLASSES: dict[str, str] = {
    "the page": "gradio-container main dark column block padded form gr-group styler wrap",
    "the sidebars": "sidebar sidebar-parent sidebar-content toggle-button open",
    "the conversation": """
        wrapper bubble-wrap message-wrap message-row user-row bot-row flex-wrap message message-content user bot prose
        md message-buttons message-buttons-left message-buttons-right icon-button-wrapper top-panel
        scroll-down-button-container html-container thought-group title expanded copy_code_button check table-wrap
        placeholder-content examples example example-text katex katex-html
    """,
    "the message box": "input-container submit-button stop-button validation-error",
    "the settings": """
        gr-accordion label-wrap icon info-text head tab-like-container reset-button checkbox-container container
    """,
    "Inspect": "codemirror-wrapper cm-editor cm-content cm-scroller selected textfield token legend legend-item",
    "the notices": "toast-wrap toast-header toast-body toast-title toast-message-text",
    "the login page": "creds",
    "code in replies (Prism)": """
        comment prolog doctype cdata punctuation operator entity url string attr-value attr-name builtin char inserted
        selector keyword atrule rule function class-name number constant boolean property tag symbol deleted regex
        important variable decorator
    """,
}
"""Class names by the part of the page that has them."""

TEST_IDS = ("block-info", "number-input", "range-input")
"""Values of `data-testid`. A message of the conversation has its role as its own: "user" or "bot"."""

LABELS = (
    *("Copy message", "Copied message", "Copy conversation", "Copied conversation"),
    *("Copy", "Download", "Submit", "Cancel", "Close"),
)
"""Labels of Gradio's buttons that are English in every language; access.js translates them."""

GLOBALS = ("gradio_config",)


def classes() -> frozenset[str]:
    """All class names."""
    return frozenset(name for names in CLASSES.values() for name in names.split())
