"""Options for research: neither the paper's tables nor the released code use them."""
