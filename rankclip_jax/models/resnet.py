"""CLIP's ResNet: a stem of three convolutions, anti-aliased strides, attention pooling (arXiv 2103.00020, 2.4).

Parameters have OpenAI's names, with / instead of dots: layer2/0/downsample/1/scale is
visual.layer2.0.downsample.1.weight in OpenAI's state dict.

Letters: B batch, S image side, H, W feature map, C channels, P positions, N heads, E embedding.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from rankclip_jax.models.batch_norm import BatchNorm
from rankclip_jax.models.transformer import uniform_fan_in

BATCH_NORMS = ("global", "local")
EXPANSION = 4  # channels of a block's output / channels of its 3 x 3 convolution
REDUCTION = 32  # side of the images / side of the last feature map


def conv(name: str, features: int, x_BHWC: jax.Array, size: int = 1, stride: int = 1) -> jax.Array:
    """A convolution without bias, padded by half its size on all sides, with PyTorch's default initialisation."""
    init = uniform_fan_in(size * size * x_BHWC.shape[-1])
    options = {"padding": size // 2, "use_bias": False, "dtype": x_BHWC.dtype, "kernel_init": init}
    return nn.Conv(features, (size, size), (stride, stride), **options, name=name)(x_BHWC)


def average_pool(x_BHWC: jax.Array, side: int) -> jax.Array:
    """Average pooling over squares of `side` x `side` positions; `side` divides H and W."""
    if side == 1:
        return x_BHWC
    batch, height, width, channels = x_BHWC.shape
    squares = x_BHWC.reshape(batch, height // side, side, width // side, side, channels)
    return jnp.mean(squares, axis=(2, 4))


class Shortcut(nn.Module):
    """Projection shortcut, used where the shape changes: average pool, 1 x 1 convolution, norm."""

    features: int
    stride: int
    norm: Callable[..., BatchNorm]

    @nn.compact
    def __call__(self, x_BHWC: jax.Array, train: bool) -> jax.Array:
        x = average_pool(x_BHWC, self.stride)
        return self.norm(name="1")(conv("0", self.features, x), train)


class Bottleneck(nn.Module):
    """x + 1x1, 3x3 and 1x1 convolutions, each normalised.

    The scale of the last norm starts at zero, so a block starts as its shortcut. The stride is an average pool after
    the 3x3 convolution: the pool filters before it subsamples.
    """

    channels: int
    stride: int
    norm: Callable[..., BatchNorm]

    @nn.compact
    def __call__(self, x_BHWC: jax.Array, train: bool) -> jax.Array:
        features = EXPANSION * self.channels
        y = nn.relu(self.norm(name="bn1")(conv("conv1", self.channels, x_BHWC), train))
        y = nn.relu(self.norm(name="bn2")(conv("conv2", self.channels, y, size=3), train))
        y = conv("conv3", features, average_pool(y, self.stride))
        y = self.norm(name="bn3", scale_init=nn.initializers.zeros)(y, train)
        if self.stride > 1 or x_BHWC.shape[-1] != features:
            x_BHWC = Shortcut(features, self.stride, self.norm, name="downsample")(x_BHWC, train)
        return nn.relu(x_BHWC + y)


class Stage(nn.Module):
    """Blocks of one width; the first one has the stride."""

    blocks: int
    channels: int
    stride: int
    norm: Callable[..., BatchNorm]

    @nn.compact
    def __call__(self, x_BHWC: jax.Array, train: bool) -> jax.Array:
        for block in range(self.blocks):
            stride = self.stride if block == 0 else 1
            x_BHWC = Bottleneck(self.channels, stride, self.norm, name=str(block))(x_BHWC, train)
        return x_BHWC


class AttentionPool(nn.Module):
    """Multi-head attention; the query is the mean of the feature map, the keys are the mean and all positions."""

    heads: int
    embed_dim: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Feature map [B, H, W, C] to its projection [B, E], and the input of the projection, [B, C]."""
        batch, *_, width = x_BHWC.shape
        normal = nn.initializers.normal(width**-0.5)
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=normal, bias_init=uniform_fan_in(width))

        def heads(name: str, x_BPC: jax.Array) -> jax.Array:
            return dense(width, name=name)(x_BPC).reshape(batch, -1, self.heads, width // self.heads)

        x_BPC = x_BHWC.reshape(batch, -1, width)
        x_BPC = jnp.concatenate([jnp.mean(x_BPC, axis=1, keepdims=True), x_BPC], axis=1)
        x_BPC = x_BPC + self.param("positional_embedding", normal, x_BPC.shape[1:])[None].astype(self.dtype)
        query, key, value = heads("q_proj", x_BPC[:, :1]), heads("k_proj", x_BPC), heads("v_proj", x_BPC)
        pooled_BC = jax.nn.dot_product_attention(query, key, value).reshape(batch, width)
        return dense(self.embed_dim, name="c_proj")(pooled_BC), pooled_BC


class ModifiedResNet(nn.Module):
    """CLIP's ResNet, initialised like OpenAI's.

    Attributes:
      width: channels of the stem's output; the last feature map has 32 times as many.
      layers: number of blocks of each of the four stages.
      heads: attention heads of the pooling.
      batch_norm: "global" uses the statistics of the whole batch, whatever the number of devices; "local" uses those
        of each device's rows, as the paper's models do.
      devices: number of devices that share the batch.
    """

    image_size: int
    width: int
    layers: tuple[int, ...]
    heads: int
    embed_dim: int
    batch_norm: str = "global"
    devices: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images_BSSC: jax.Array, with_trunk: bool = False, train: bool = False):
        """Normalised images, float [B, S, S, 3], to features [B, E], which are not normalised.

        With `with_trunk` also the input of the projection, [B, 32 width]. With `train`, norms use the statistics of
        the batch, and update the collection "batch_stats", which must be mutable.
        """
        groups = self.devices if self.batch_norm == "local" else 1
        norm = functools.partial(BatchNorm, groups=groups, dtype=self.dtype)
        x = images_BSSC.astype(self.dtype)
        for i, (features, stride) in enumerate(((self.width // 2, 2), (self.width // 2, 1), (self.width, 1)), 1):
            x = nn.relu(norm(name=f"bn{i}")(conv(f"conv{i}", features, x, size=3, stride=stride), train))
        x = average_pool(x, 2)
        for i, blocks in enumerate(self.layers):
            x = Stage(blocks, self.width * 2**i, 2 if i else 1, norm, name=f"layer{i + 1}")(x, train)
        features_BE, pooled_BC = AttentionPool(self.heads, self.embed_dim, self.dtype, name="attnpool")(x)
        return (features_BE, pooled_BC) if with_trunk else features_BE
