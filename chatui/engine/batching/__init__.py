"""Many sequences in one forward pass: scheduler, attention over cached keys and values, faster decode steps."""
