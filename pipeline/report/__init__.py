"""The results of a profile as one page to look at."""
