"""The Inspect view: how a reply was made."""
