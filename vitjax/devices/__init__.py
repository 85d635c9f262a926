"""The devices and processes of a run, from its start to its end.

Start with `sharding`, the mesh and the placement of arrays. `startup` and `stopping`
begin and end a process; `peers` and `agreement` handle the other processes. This
package may import config and trees.
"""
