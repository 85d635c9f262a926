"""Views of a stream of examples: pictures of every op, charts, an outline without data.

Start with `story`. May import all else in input_pipeline.
"""
