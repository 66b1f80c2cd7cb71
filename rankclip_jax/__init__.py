"""Pretrain CLIP-style image-text models with ranking-consistent objectives, in JAX and Flax."""

__version__ = "0.1.0"
__all__ = ["Encoder", "load"]


def __getattr__(name: str):
    # Lazy: `import rankclip_jax` must not import JAX before a command has configured it.
    if name == "load":
        from rankclip_jax.inference.load import load

        return load
    if name == "Encoder":
        from rankclip_jax.inference.encoder import Encoder

        return Encoder
    raise AttributeError(f"module 'rankclip_jax' has no attribute {name!r}")
