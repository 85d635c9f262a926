"""Accuracy, speed and memory on a GPU, in one call: `python -m parity.gpu`.

Start with `__main__`. The parent process imports neither JAX nor torch; every job runs
in a process of its own.
"""
