"""Every JSON that mopt writes, as one schema for memory and disk."""
