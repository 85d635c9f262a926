"""The devices and processes that a run has, and how it leaves them.

Begin with `sharding`, the mesh and where arrays are; `startup` and `stopping` are the two
ends of a process, `peers` and `agreement` the other processes. May import config and trees.
"""
