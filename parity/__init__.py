"""Proof against PyTorch: imports torch."""
