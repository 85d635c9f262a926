"""What parity must notice: planted faults, and the test that each is noticed.

Begin with `self_test`. May import rungs, sides and reference.
"""
