"""The Inspect view: the generation trace of a reply, its times, memory and prompt."""
