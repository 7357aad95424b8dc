"""Is it still right: metrics, paired statistics, the gate."""
