"""The sandbox's pure parts: no clock, loop, socket, file or logging; time and randomness are arguments."""
