"""The jitted train step: a pure function of state and batch.

The state is a plain dict:

    step         int32 scalar, updates done
    params       {"towers", "scalars"}
    opt_state    state of the optimizer
    objective    running statistics of the objective, or {}
    model_state  mutable collections of the towers, such as a ResNet's {"batch_stats"}, or {}
    ema          moving averages of {"params", "model_state"}, or {}; if present, evaluation uses them
    skips        counters of skipped steps, see `skipping`
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rankclip_jax.image_size import height_width_of
from rankclip_jax.objectives.objective import Objective
from rankclip_jax.objectives.rows import LossAndGradients, loss_and_gradients
from rankclip_jax.parallel.mesh import batch_sharding, state_shardings
from rankclip_jax.training import skipping
from rankclip_jax.training.gradcache import make_forward
from rankclip_jax.training.options import DEFAULT, StepOptions

TrainState = dict
Batch = dict


def make_init(
    towers: nn.Module, objective: Objective, optimizer: optax.GradientTransformation, ema_decay: float = 0.0
) -> Callable[[jax.Array], TrainState]:
    """Return init(key) -> state at step 0, which includes moving averages if `ema_decay` is not 0."""
    init_model = make_init_model(towers, objective)

    def init(key: jax.Array) -> TrainState:
        params, model_state = init_model(key)
        return {
            "step": jnp.int32(0),
            "params": params,
            "opt_state": optimizer.init(params),
            "objective": objective.initial_state(),
            "model_state": model_state,
            "ema": {"params": params, "model_state": model_state} if ema_decay else {},
            "skips": skipping.initial_counters(),
        }

    return init


def make_init_model(towers: nn.Module, objective: Objective) -> Callable[[jax.Array], tuple[dict, dict]]:
    """Return init(key) -> (params, model_state)."""
    image_size, context_length = towers.image.image_size, towers.text.context_length

    def init(key: jax.Array) -> tuple[dict, dict]:
        images = jnp.zeros((1, *height_width_of(image_size), 3), jnp.uint8)
        tokens = jnp.zeros((1, context_length), jnp.int32)
        # Both towers come first for every objective: their parameters must not depend on the objective.
        batch = {"images": images, "augmented_images": images}
        batch |= {"tokens": tokens, "caption_tokens": tokens, "augmented_tokens": tokens}
        inputs = ("image_embeds", "text_embeds", *objective.inputs)
        model_state = dict(towers.init(key, inputs, batch, method="compute"))
        params = {
            "towers": model_state.pop("params"),
            "scalars": {name: jnp.float32(scalar.initial) for name, scalar in objective.scalars.items()},
        }
        return params, model_state

    return init


def create_state(init: Callable[[jax.Array], TrainState], key: jax.Array, mesh: Mesh) -> TrainState:
    """Initialise straight into shards: no device ever holds the whole state."""
    return jax.jit(init, out_shardings=state_shardings(jax.eval_shape(init, key), mesh))(key)


def abstract_state(init: Callable[[jax.Array], TrainState], key: jax.Array, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the state, for restoring a checkpoint."""
    shapes = jax.eval_shape(init, key)
    return jax.tree.map(lambda x, sharding: x.update(sharding=sharding), shapes, state_shardings(shapes, mesh))


class Gradients(NamedTuple):
    """Results of a batch: the objective's result, the gradient of all parameters, the towers' next state."""

    result: LossAndGradients
    params: dict
    model_state: dict


def make_gradients(
    towers: nn.Module, objective: Objective, mesh: Mesh, options: StepOptions = DEFAULT
) -> Callable[..., Gradients]:
    """Return f(params, batch, weights, objective_state, step, model_state) -> `Gradients`.

    Only the towers' outputs that the objective reads are computed. Their gradient is backpropagated through the towers,
    at once or in micro-batches (`gradcache`). The gradient of the towers' frozen parameters is zero.
    """
    forward = make_forward(towers, objective.inputs, mesh, options)
    objective_rows = loss_and_gradients(objective, mesh, options.block_rows)

    def gradients(
        params: dict, batch: Batch, weights: dict, objective_state: dict | None = None, step=0, model_state=None
    ) -> Gradients:
        embeds, model_state, pull_back = forward(params["towers"], model_state or {}, batch, step)
        result = objective_rows(embeds, params["scalars"], weights, objective_state, step)
        d_params = {"towers": pull_back(result.d_embeds), "scalars": result.d_scalars}
        return Gradients(result, d_params, model_state)

    return gradients


def make_train_step(
    towers: nn.Module,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    options: StepOptions = DEFAULT,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Return the update before jit: (state, batch) -> (state, metrics).

    `batch` is {"images": uint8 [B, S, S, 3], "tokens": int32 [B, L]} and the other keys that `inputs.batch_keys` names,
    split over the mesh. Metrics are float32 scalars of this step: `loss`, each term (unweighted), `weight_<term>` for
    each term but CLIP's, `temperature_scale` = exp(logit_scale), other learned scalars, `grad_norm`, `skipped_steps`
    (of the run) and `skipped_in_row`. A skipped step (see `skipping`) leaves all but `step` and `skips` as it is.
    """
    gradients = make_gradients(towers, objective, mesh, options)

    def train_step(state: TrainState, batch: Batch):
        params, step = state["params"], state["step"]
        weights = objective.weights(step)
        result, grads, model_state = gradients(params, batch, weights, state["objective"], step, state["model_state"])
        grad_norm = optax.tree.norm(grads)
        sound, skips = skipping.judge(state["skips"], step, result.loss, grad_norm, options.skip_median_factor)
        updates, opt_state = optimizer.update(grads, state["opt_state"], params)
        params = clamp_scalars(optax.apply_updates(params, updates), objective)
        scalars = dict(params["scalars"])
        metrics = {
            "loss": result.loss,
            **result.terms,
            **{f"weight_{name}": value for name, value in weights.items() if name != "clip"},
            **({"temperature_scale": jnp.exp(scalars.pop("logit_scale"))} if "logit_scale" in scalars else {}),
            **scalars,
            "grad_norm": grad_norm,
            "skipped_steps": skips["total"].astype(jnp.float32),
            "skipped_in_row": skips["in_row"].astype(jnp.float32),
        }
        model = {"params": params, "model_state": model_state}
        ema = moved_average(state["ema"], model, options.ema_decay, step) if options.ema_decay else {}
        new = model | {"opt_state": opt_state, "objective": result.state, "ema": ema}
        kept = skipping.select(sound, new, {name: state[name] for name in new})
        return kept | {"step": step + 1, "skips": skips}, metrics

    return train_step


def moved_average(average: dict, model: dict, decay: float, step: jax.Array) -> dict:
    """The exponential moving average of the weights after one more step: d average + (1 - d) model.

    d = min(decay, (1 + step) / (10 + step)), after `step` earlier updates. d is small in the first steps, and so even
    a long average soon forgets the initial weights. All trees hold float arrays.
    """
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), average, model)


def clamp_scalars(params: dict, objective: Objective) -> dict:
    """Clamp each learned scalar to its range. As in CLIP, this follows the update: no gradient passes the clamp."""
    scalars = {
        name: jnp.clip(value, objective.scalars[name].minimum, objective.scalars[name].maximum)
        for name, value in params["scalars"].items()
    }
    return {**params, "scalars": scalars}


def jit_train_step(train_step: Callable, state_like: TrainState, mesh: Mesh) -> Callable:
    """Compile for `mesh`. The state is donated: the new state reuses its buffers."""
    shardings = state_shardings(state_like, mesh)
    return jax.jit(
        train_step,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, NamedSharding(mesh, P())),
        donate_argnums=0,
    )
