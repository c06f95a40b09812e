"""Models that run in this process: the only room that imports torch or transformers."""
