"""A run directory -> what an independent auditor finds in its ledger. Shares no code with the ledger's writer."""
