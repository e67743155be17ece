"""The sandbox's HTTPS face: the part of the Kubernetes API that kubectl, kubernetes-asyncio and krayne use."""
