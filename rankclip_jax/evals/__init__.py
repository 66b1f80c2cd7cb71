"""Evaluation: metrics as pure functions of embeddings, and functions that evaluate the splits of a data set."""
