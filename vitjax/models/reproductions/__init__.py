"""Models of other authors, reproduced as they were trained.

Start with the module named after the system; configs/ has a config for each. This
package may import config and vit.py; vit.py imports none of them.
"""
