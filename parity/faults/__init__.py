"""Planted faults, and the test that parity notices each.

Start with `self_test`. This package may import rungs, sides and reference.
"""
