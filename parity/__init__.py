"""The comparison with PyTorch; imports torch."""
