"""Where data files are: local folders, HTTP, buckets."""
