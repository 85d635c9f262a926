"""Planted faults, and the test that parity notices each.

Begin with `self_test`. May import rungs, sides and reference.
"""
