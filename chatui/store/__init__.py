"""Conversations and personas in SQL: a message tree in which nothing is overwritten, every query scoped to an owner."""
