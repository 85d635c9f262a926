"""The records of a run: rows of metrics, pictures, progress, and its workdir.

Start with `rows`, which collects a step's metrics; `jsonl` and `sinks` write them. This
package may import config, devices, trees and files.
"""
