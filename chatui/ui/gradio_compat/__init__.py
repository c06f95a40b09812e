"""Everything that uses Gradio beyond its public API: one module for each topic.

Each module's docstring says what of Gradio is replaced or reached, why, and what Gradio does there. tests/contract
asserts the latter; `scripts/check-gradio VERSION` does so for another version of Gradio.
"""
