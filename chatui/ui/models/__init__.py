"""The Models view: its frame and its tabs."""
