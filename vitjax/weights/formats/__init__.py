"""One table for each library: which of its tensors holds which parameter.

Begin with `timm`; `vitjax.weights.table` defines what a table says. May import
`vitjax.weights.table`.
"""
