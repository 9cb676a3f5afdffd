"""DPPO inside the frozen world model."""
