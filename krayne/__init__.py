"""The words both sides share. Empty on purpose: importing it costs nothing."""
