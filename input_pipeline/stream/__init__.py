"""Which example comes when: the global order, batches, and damaged examples.

Begin with `order`, the shuffle; `batching` makes batches of it. May import sources and ops.
"""
