"""Models of other authors, reproduced as they were trained.

Begin with the module named after the system; configs/ has a config for each. May import
config and vit.py; vit.py imports none of them.
"""
