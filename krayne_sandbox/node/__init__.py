"""The sandbox's one node, which runs pods as processes of this machine."""
