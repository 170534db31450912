"""Where ideas and prices come from: one module per vendor, complete; and the ledger that keeps their limits."""
