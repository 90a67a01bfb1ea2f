"""MLflow's REST routes (3.x), so that its clients work against this cloud: tracking, artifacts, registry.

Their contract is MLflow's own (its protobufs), so they are not in docs/openapi.json. A token, a tenant and a permission
are what they are everywhere. What MLflow has and this cloud does not is refused in one sentence.
"""
