"""Judging policies and world models: roll-outs, agreement of dream and simulator, statistics."""
