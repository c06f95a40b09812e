"""The page around everything: layout, header, theme, language, and how it is served."""
