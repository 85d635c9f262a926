"""Commands other than the trainer, one file each.

Run one as `python -m vitjax.tools.NAME`.
"""
