"""What a run can resume from: checkpoints, their checksums, and the best of them.

Begin with `checkpointer`, which writes and restores; `best` keeps the best by a metric. May
import config, devices, trees and files.
"""
