"""Data files in local folders, on web servers and in buckets: finds them, and reads them or parts of them."""
