"""Estimate what a compiled program takes on a chip, which need not be there.

Start with `compiled`: `estimate` reads memory, traffic, operations and collectives off a
program. `count` counts its kernels, `hlo` reads its text. This room may import devices.
"""
