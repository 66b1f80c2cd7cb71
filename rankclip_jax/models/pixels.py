"""Image normalisation before an image tower. Letters: B batch, S image side, C channels."""

import jax
import jax.numpy as jnp

# Mean and standard deviation of RGB in [0, 1] that OpenAI's CLIP uses.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


def normalize_pixels(
    images_BSSC: jax.Array, mean: tuple[float, ...] = PIXEL_MEAN, std: tuple[float, ...] = PIXEL_STD
) -> jax.Array:
    """uint8 RGB [B, S, S, 3] to float32: (x / 255 - mean) / std for each channel."""
    pixels = images_BSSC.astype(jnp.float32) / 255.0
    mean_111C, std_111C = (jnp.reshape(jnp.asarray(values), (1, 1, 1, -1)) for values in (mean, std))
    return (pixels - mean_111C) / std_111C
