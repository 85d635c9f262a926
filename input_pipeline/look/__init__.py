"""Views of a stream of examples: pictures of every step, charts, a plan without data.

Start with `story`. May import all else in input_pipeline.
"""
