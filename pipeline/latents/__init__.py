"""What is known of demonstrations: their frames, and their features on disk."""
