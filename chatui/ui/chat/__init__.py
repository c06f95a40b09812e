"""The chat itself: sending messages, the running reply, and how messages are rendered."""
