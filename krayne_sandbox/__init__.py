"""A small Kubernetes on this machine: an API on loopback, an operator and a node that runs real Ray processes."""
