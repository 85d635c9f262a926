"""Commands other than the trainer, one module each."""
