"""A real Kubernetes control plane for tests: real etcd, API server, controllers, scheduler and KubeRay operator.

Only the machines are pretended: kwok plays node and pod life, and a small Go program of ours (`go/node`)
serves what a kubelet streams. Nothing here knows the product it tests.
"""
