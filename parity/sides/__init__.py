"""Both sides of a comparison, vitjax's and PyTorch's, in the same terms.

Start with `cases`, the inputs of both sides. This package may import reference.
"""
