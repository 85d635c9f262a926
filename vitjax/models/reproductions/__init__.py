"""Other people's models, as their authors trained them.

Begin with the module of the system's name; configs/ has a config for each. May import
config and vit.py, which imports none of them.
"""
