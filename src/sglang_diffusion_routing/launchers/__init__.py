"""Start workers, here or elsewhere, and keep them running."""
