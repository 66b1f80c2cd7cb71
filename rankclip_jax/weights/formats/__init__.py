"""Foreign weight formats: one reader and one writer for each, and what they share."""
