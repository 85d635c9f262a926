"""Write a data set once more with smaller images: `python -m input_pipeline.prepare`."""
