"""Training: objectives, one loop, flat mixed-precision parameters, resumable checkpoints."""
