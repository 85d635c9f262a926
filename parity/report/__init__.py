"""The presentation of a run of parity: its page, curves and pictures.

Begin with `run`. May import everything else in parity.
"""
