"""The torch reference, from the papers: torch, numpy and the standard library."""
