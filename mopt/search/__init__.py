"""Candidates, trials, and the choice among them."""
