"""One table per library that maps its tensors to vitjax's parameters.

Start with `timm`; `vitjax.weights.table` defines the tables. This package may import
`vitjax.weights.table`.
"""
