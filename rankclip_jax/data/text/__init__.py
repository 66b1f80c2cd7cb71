"""Text: tokenizers and caption augmentation."""
