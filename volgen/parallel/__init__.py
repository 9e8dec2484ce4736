"""Ranks: how they are started, what they share, how volumes flow through them, and who notices that one is lost."""
