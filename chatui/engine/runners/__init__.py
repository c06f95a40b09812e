"""Requests to replies: what drives a loaded model, many replies at once or one after another."""
