"""Reading what others wrote: bounded, and never executed."""
