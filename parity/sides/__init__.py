"""Both sides of a comparison: vitjax's and PyTorch's, in the same terms.

Begin with `cases`, what both are asked for. May import reference.
"""
