"""Clients of vendors (the model, prices, webhooks), and the ledger that enforces their limits."""
