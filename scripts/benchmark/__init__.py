"""Measures OpenAI-compatible servers, ours first, against the loop that a plain Gradio page has."""
