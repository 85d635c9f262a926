"""The order of examples, their batches, and damaged examples.

Start with `order`, the shuffle; `batching` makes batches of it. This package may import
sources and ops.
"""
