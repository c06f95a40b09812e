"""Models that could be run: their names explained, facts from file headers and configs, and whether they fit here."""
