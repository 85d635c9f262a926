"""The comparisons, rung by rung, from initialisation to training.

Start with `comparison`; `ladder` lists the rungs in order. This package may import
sides and reference.
"""
