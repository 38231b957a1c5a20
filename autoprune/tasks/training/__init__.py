"""Training: the loop, its optimizers, snapshots to resume from, distillation."""
