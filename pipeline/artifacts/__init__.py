"""Directories that are complete, verifiable and never lost."""
