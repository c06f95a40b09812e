"""The migrations, one module for each revision. A released migration never changes."""
