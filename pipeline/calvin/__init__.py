"""CALVIN's own format: its files, its fields, what makes a frame valid."""
