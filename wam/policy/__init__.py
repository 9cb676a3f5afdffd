"""The diffusion policy and its behaviour cloning."""
