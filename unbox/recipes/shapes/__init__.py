"""How the bundled Shapes models are made from nothing: VAE, text encoders, UNet, finish, detector."""
