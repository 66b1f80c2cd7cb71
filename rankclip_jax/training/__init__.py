"""Training: from a config to a compiled step, and what surrounds the loop."""
