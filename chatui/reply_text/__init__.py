"""The text of a reply as it may be shown: thoughts apart from answers, no stop strings. Knows no model."""
