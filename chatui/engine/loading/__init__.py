"""Names and files to a model in memory, and what is known about it."""
