"""KubeRay's part: RayClusters become pods and a service."""
