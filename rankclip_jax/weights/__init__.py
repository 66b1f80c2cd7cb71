"""Weights of other libraries: import, export, and comparison with what those libraries compute.

`formats` holds the readers and writers; `folder` keeps imported weights in the form of a run; `export`, `check` and
`model_card` serve the commands.
"""
