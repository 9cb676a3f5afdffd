"""What the promises of docs/reliability.md rest on: atomic files, signals, processes."""
