"""One table per library that maps its tensors to vitjax's parameters.

Begin with `timm`; `vitjax.weights.table` defines the tables. May import
`vitjax.weights.table`.
"""
