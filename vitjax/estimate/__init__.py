"""What a compiled program takes on a chip, also on one that is not there.

Start with `compiled`: `estimate` reads memory, traffic, operations and collectives off a
program. `count` counts its kernels, `hlo` reads its text. This room may import devices.
"""
