"""The comparisons, rung by rung, from initialisation to training.

Begin with `comparison`; `ladder` lists the rungs in order. May import sides and
reference.
"""
