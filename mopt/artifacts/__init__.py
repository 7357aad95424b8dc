"""What a build leaves: the bundle, the baseline, files for serving systems."""
