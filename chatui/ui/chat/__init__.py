"""The chat itself: asking, the reply while it is written, the messages as Markdown, and the tab's state."""
