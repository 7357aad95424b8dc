"""Which candidates each family of runtimes has; a new family is one new file."""
