"""Open-loop load on a running server."""
