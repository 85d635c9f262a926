"""Commands beside the trainer: `python -m vitjax.tools.NAME`."""
