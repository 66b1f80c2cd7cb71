"""``python -m rankclip_jax.doctor``: what this machine has, and how fast it is."""
