"""Reading, ordering and augmenting images; knows nothing of vitjax."""
