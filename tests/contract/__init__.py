"""What chatui needs of Gradio beyond its public API, checked in the installed version: see scripts/check-gradio."""
