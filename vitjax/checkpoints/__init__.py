"""Checkpoints of a run, their checksums, and the best checkpoint by a metric.

Start with `checkpointer`, which writes and restores; `best` keeps the best one. This
package may import config, devices, trees and files.
"""
