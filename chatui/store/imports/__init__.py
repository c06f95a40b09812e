"""Reads files of conversations: unpacks archives, parses JSON, finds the format, in a process of its own if large."""
