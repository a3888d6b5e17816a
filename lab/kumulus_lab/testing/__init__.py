"""What the end-to-end tests and the benchmarks are written with: a cloud to act on and observers that watch it."""
