"""Batch normalisation like PyTorch's BatchNorm2d, over the whole batch or over the rows of each device.

Letters: B batch, H, W feature map, C channels, G groups of rows, each with its own statistics.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

EPS = 1e-5
MOMENTUM = 0.1  # weight of the newest batch in the running statistics


class BatchNorm(nn.Module):
    """(x - mean) / sqrt(variance + 1e-5) * scale + bias, for each channel.

    Training uses the mean and the biased variance over B/G rows and H W positions, computed in at least float32 and in
    two passes. The running mean and the running *unbiased* variance (collection "batch_stats") move a tenth of the way
    towards the batch's values, averaged over the groups. Evaluation uses the running values.

    Attributes:
      groups: G, the number of consecutive equal parts of the batch, each with its own statistics. With 1, statistics
        are summed over all devices; with one group per device, devices do not communicate.
    """

    groups: int = 1
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BHWC: jax.Array, train: bool) -> jax.Array:
        """Normalise [B, ..., C]; the result has the same shape, and dtype `dtype`."""
        channels = x_BHWC.shape[-1]
        scale_11C = self.param("scale", self.scale_init, (channels,))[None, None]
        bias_11C = self.param("bias", nn.initializers.zeros, (channels,))[None, None]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        x = x_BHWC.astype(jnp.promote_types(x_BHWC.dtype, jnp.float32))
        x_GNC = x.reshape(self.groups if train else 1, -1, channels)
        if train:
            mean_G1C = jnp.mean(x_GNC, axis=1, keepdims=True)
            centred_GNC = x_GNC - mean_G1C
            var_G1C = jnp.mean(jnp.square(centred_GNC), axis=1, keepdims=True)
            values = x_GNC.shape[1]
            _move(running_mean, jnp.mean(mean_G1C, axis=(0, 1)))
            _move(running_var, jnp.mean(var_G1C, axis=(0, 1)) * (values / max(1, values - 1)))
            normal_GNC = centred_GNC * (lax.rsqrt(var_G1C + EPS) * scale_11C)
        else:
            centred_GNC = x_GNC - running_mean.value[None, None]
            normal_GNC = centred_GNC * lax.rsqrt(running_var.value + EPS)[None, None] * scale_11C
        return (normal_GNC + bias_11C).reshape(x_BHWC.shape).astype(self.dtype)


def _move(running: nn.Variable, now: jax.Array) -> None:
    running.value = (1 - MOMENTUM) * running.value + MOMENTUM * lax.stop_gradient(now)
