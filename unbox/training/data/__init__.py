"""What diffusion models are trained on: images with captions, aspect buckets, cached latents and text."""
