"""Commands that are no stage: looking at artifacts, filming dreams, replaying traces."""
