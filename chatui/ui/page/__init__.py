"""The page around everything: layout, theme, assets, language, the HTML head and the prerendered conversation."""
