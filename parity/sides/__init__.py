"""Both sides of a comparison, vitjax's and PyTorch's, in the same terms.

Begin with `cases`, the inputs of both sides. May import reference.
"""
