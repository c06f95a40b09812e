"""Messages to token ids by the chat template, and token ids to text in whole characters."""
