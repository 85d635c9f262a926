"""What a GPU shows: accuracy, speed and memory, in one call, `python -m parity.gpu`.

Start with `__main__`. The parent process imports neither JAX nor torch; every job runs
in a process of its own.
"""
