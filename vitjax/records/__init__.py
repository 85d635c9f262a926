"""What a run writes and shows: rows of metrics, pictures, progress, its workdir.

Begin with `rows`, which collects a step's metrics; `jsonl` and `sinks` write them. May
import config, devices, trees and files.
"""
