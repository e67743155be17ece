"""Talks to this machine: the home folder, its files, local sockets, the service manager."""
