"""Models: what could be run here, their names and facts, and those that are loaded. Imports no torch."""
