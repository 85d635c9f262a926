"""The torch side, written from the papers: torch, numpy and the standard library."""
