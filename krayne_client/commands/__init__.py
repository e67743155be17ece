"""The commands, a file for each kind: what can be typed (`add`) stands beside what it does."""
