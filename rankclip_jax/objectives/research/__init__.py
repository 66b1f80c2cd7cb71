"""Options of objectives for research only: neither the paper's tables nor the released code use them."""
