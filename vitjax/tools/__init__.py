"""Commands other than the trainer: `python -m vitjax.tools.NAME`."""
