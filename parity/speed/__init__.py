"""The speed of both sides, step by step: `python -m parity.speed`.

Begin with `__main__`. May import sides and reference.
"""
