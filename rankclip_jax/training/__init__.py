"""Training: the compiled train step, its parts, and the tools of the training loop."""
