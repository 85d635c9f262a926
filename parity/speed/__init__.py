"""The speed of both sides, step by step: `python -m parity.speed`.

Start with `__main__`. This package may import sides and reference.
"""
