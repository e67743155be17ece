"""Pure: no await, no clock, no socket, no file, no logging. Time and randomness are arguments."""
