"""How does a journal reach MLflow? This package is the separate process that ships it, and `sync`.

``python -m mypt_dist.tracking.mlflow_sender RUN_DIR`` is started by `mypt_dist.tracking.mlflow_tracker`.
`ship` decides what is sent and when it counts as sent, `store` is the only module that imports mlflow.
"""
