"""Users' environments by `uv`: the lock of a requirements file, and the folder that is built from a lock."""
