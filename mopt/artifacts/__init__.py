"""What is on disk: models, samples, the store, the manifest, reports and serving files."""
