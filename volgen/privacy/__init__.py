"""What a run may say of its guarantee: accounting, the ledger, clipping and noise, and tests of the claim."""
