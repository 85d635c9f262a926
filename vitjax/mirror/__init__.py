"""Workdirs in a bucket: a local folder, mirrored there while a run writes it.

The rest of vitjax sees a local folder, the staging folder. `staged` fetches the newest
whole checkpoint and the rows into it, and pushes what a run writes. A marker, the object
checkpoints/STEP.whole.json, is put last: where it is, the checkpoint's files are there,
and all rows up to its step. Nothing without a marker is ever fetched.
`copy` gives tools what they read of such a workdir.
"""
