"""Is a language model still right: log loss, divergence, choices, generation."""
