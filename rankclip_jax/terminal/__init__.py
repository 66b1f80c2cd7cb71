"""What a person sees on a terminal: without control characters and secrets; tables."""
