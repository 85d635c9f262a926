"""The presentation of a run of parity: its page, curves and pictures.

Start with `run`. This package may import everything else in parity.
"""
