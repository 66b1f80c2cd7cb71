"""Readers and writers of the formats of OpenAI, open_clip and transformers."""
