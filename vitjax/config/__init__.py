"""Configuration of a run: config files, overrides, and the checks of every section.

Start with `experiment`, the fields of a run. `files` reads a config; `arguments` checks
a section against the function that takes it; `names` finds a person's own parts. This
package may import the standard library, ml_collections, and from input_pipeline `home`,
`parts` and `spec`.
"""
