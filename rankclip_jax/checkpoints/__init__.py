"""Checkpoints of a run: saving, verifying and restoring."""
