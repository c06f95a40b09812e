"""The left sidebar: the list of conversations, search, import and export."""
