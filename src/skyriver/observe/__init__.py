"""observe: what happened, and whether it is what was wanted - models that go stale, a system that gets ill."""
