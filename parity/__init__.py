"""Proof against PyTorch: the only package that imports torch."""
