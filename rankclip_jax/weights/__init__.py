"""Weights of other libraries: read, written, and compared with what those libraries compute.

`source` finds out what is given; `huggingface` and `openai` know one format each; `mapping` converts by their
tables, every tensor accounted for; `torch_pickle` reads PyTorch's files without running what is in them.
"""
