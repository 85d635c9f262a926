"""Threefry-2x32, a counter-based generator of random bits, in operators alone.

Salmon et al. 2011; the generator behind JAX's keys. The bits are the same whether its
words are arrays of numpy, TensorFlow or JAX, none of which it imports.
"""

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def threefry2x32(key: tuple, counter: tuple) -> tuple:
    """Twenty rounds of threefry-2x32: two words of 32 random bits per counter.

    `key` and `counter` are pairs of uint32 arrays that broadcast, of numpy, TensorFlow
    or JAX, or of ints below 2**32 beside such arrays: only operators are used. For a
    fixed key it is a bijection of the counter.
    """
    keys = (*key, key[0] ^ key[1] ^ _PARITY)
    x, y = counter[0] + keys[0], counter[1] + keys[1]
    for group in range(5):
        for by in _ROTATIONS[group % 2]:
            x = x + y
            # Rotated to the left: the two products have no bit in common.
            y = (y * 2**by + y // 2 ** (32 - by)) ^ x
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + (group + 1)
    return x, y
