"""How a run of parity is shown: its page, curves and pictures.

Begin with `run`. May import all else in parity.
"""
