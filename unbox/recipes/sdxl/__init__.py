"""Latent diffusion of an SDXL-like model on images of one's own: a LoRA, or all of the UNet."""
