"""Random access to the members of tar files: an index stores their byte ranges.

headers   lists the members of one tar
shard     groups the members of one tar into samples
index     reads and writes the index file of a folder of tars
location  chooses the path of the index file
build     opens and builds the indexes of many tars
report    describes the tars and their problems as text
"""
