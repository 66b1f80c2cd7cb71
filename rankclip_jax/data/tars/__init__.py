"""Random access to the members of tar files: byte ranges found once and kept in an index.

walk      the members of one tar, in order
shard     which members make up the samples of one tar
index     the ranges of a folder of tars, in one mapped file
build     indexes of many tars, opened or made
report    what was found in them, for people
"""
