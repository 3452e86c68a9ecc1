"""The runtime: in-flight batching over a paged cache."""
