"""A study: runs of many seeds, and what they say together (docs/study.md)."""
