"""chatui: a web chat for Hugging Face transformers models that shows its work."""

__version__ = "0.1.0"
