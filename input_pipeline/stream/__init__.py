"""The order of examples, their batches, and damaged examples.

Start with `order`, the shuffle; `batching` makes batches of it. May import sources and
ops.
"""
