"""Escapes the text of replies for the page's Markdown, and finds formulas and footnotes in it."""
