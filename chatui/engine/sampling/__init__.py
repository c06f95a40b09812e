"""Logits to one token id for each sequence, and a record of what it was chosen from."""
