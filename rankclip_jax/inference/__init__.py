"""Trained models in use: load and encode."""
