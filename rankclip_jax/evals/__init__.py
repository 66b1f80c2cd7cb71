"""Evaluation: metrics as pure functions of embeddings, and what runs them on the splits of a data set."""
