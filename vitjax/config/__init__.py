"""What a person may ask for: config files, overrides, and the checks of every section.

Begin with `experiment`, the fields of a run; `files` reads a config, `arguments` checks a
section against the function that takes it. May import the standard library and
ml_collections.
"""
