"""Data files in local folders, on web servers and in buckets: their names, and reading parts of them."""
