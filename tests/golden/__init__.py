"""Golden manifests: each case's RayCluster, for people to read in a change. `python -m tests.golden` writes them."""
