"""Where models come from and artifacts go besides the disk: one file for each scheme of a URL."""
