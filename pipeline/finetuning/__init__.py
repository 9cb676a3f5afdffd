"""What the stage ``finetune`` is made of: one task's loop, the ensemble, the simulator."""
