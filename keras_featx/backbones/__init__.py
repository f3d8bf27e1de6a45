"""Networks from image to feature."""
