"""Weights of other libraries: import, export, and comparison with the other library's results.

`formats` holds the readers and writers; `folder` stores imported weights like a run; `export`, `check`, `reference` and
`model_card` implement the commands.
"""
