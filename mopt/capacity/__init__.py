"""What a replica holds: arrivals, the simulated queue, batch settings, projections."""
