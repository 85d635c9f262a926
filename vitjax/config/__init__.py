"""Configuration of a run: config files, overrides, and the checks of every section.

Start with `experiment`, the fields of a run. `files` reads a config; `arguments` checks
a section against the function that takes it. This package may import the standard
library and ml_collections.
"""
