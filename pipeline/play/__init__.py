"""Making play data in the embedded simulator."""
