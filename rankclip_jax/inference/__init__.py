"""Trained models: load them, and encode images and texts."""
