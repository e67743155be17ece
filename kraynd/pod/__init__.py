"""What runs in a head pod: a hook that returns at once and the program it starts. Sent as text, never imported here."""
