"""Two models compared: is the new one as good, and does it cost no more."""
