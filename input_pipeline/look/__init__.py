"""Views of a stream of examples: pictures of every op, charts, an outline without data.

Start with `story`. This package may import all else in input_pipeline.
"""
