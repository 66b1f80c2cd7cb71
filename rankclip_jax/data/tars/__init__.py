"""Random access to the members of tar files: their byte ranges, found once and kept in an index.

headers   the members of one tar
shard     which members make up the samples of one tar
index     the byte ranges of a folder of tars, in one mapped file
location  where that file is
build     indexes of many tars, opened or made
report    what was found, as text
"""
