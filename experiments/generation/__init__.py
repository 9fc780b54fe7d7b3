"""Hard images by a search with generative models, and the quality of such models."""
