"""How the Shapes models are made from nothing: VAE, text encoders, a UNet grown from its deep blocks,
finish, critics."""
