"""Training the world model: the loop, its checkpoints, precision and optimisers."""
