"""Images, film strips and animations."""
