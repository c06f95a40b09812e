"""What several parts of the page use: the header, error messages, the state of a tab, batched redraws."""
