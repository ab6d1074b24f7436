"""Training diffusion models: noise, roles (who learns, by which optimizer), one loop, objectives."""
