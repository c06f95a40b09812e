"""The right sidebar: the persona and the generation settings."""
