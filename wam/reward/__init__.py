"""The success classifier and its training."""
