"""What the verbs do with a language model."""
