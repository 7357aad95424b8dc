"""Plugins for mopt."""
