"""The distribution server: package content and package metadata as immutable static files, and publishing to it."""
