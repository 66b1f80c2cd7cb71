"""Processes of one run compare what must be the same in all of them, and stop with the name of what differs.

Process 0 writes its values into the key-value store of JAX's coordination service, and the others compare. No device
and no collective takes part, so processes that differ find out before anything can hang.
"""

import itertools
import json
from collections.abc import Mapping

from orbax.checkpoint import multihost

from rankclip_jax.errors import UserError, first_few
from rankclip_jax.parallel import processes
from rankclip_jax.terminal.show import short

_counter = itertools.count()  # all processes compare in the same order


def check_same(what: str, values: str | Mapping[str, object], timeout: int = processes.LONG_SECONDS) -> None:
    """Check that something is the same in every process. All processes must call this together.

    Args:
      what: its name, for the message, such as "data".
      values: the values by name, which JSON can represent; or one value, of which the message shows nothing.
      timeout: seconds to wait for other processes, which may read much data first. Dead processes are detected sooner.

    Raises:
      UserError: this process differs from process 0. The others are told, and stop too.
    """
    if not processes.is_multi_process():
        return
    index, _ = processes.index_and_count()
    client, key = multihost.get_jax_distributed_client(), f"rankclip/same/{next(_counter)}"
    named = {what: values} if isinstance(values, str) else values
    own = {name: json.dumps(value, sort_keys=True) for name, value in named.items()}
    if index == 0:
        client.key_value_set(key, json.dumps(own))
    first = json.loads(client.blocking_key_value_get(key, timeout * 1000))
    differing = [name for name in sorted(own.keys() | first.keys()) if own.get(name) != first.get(name)]
    if differing:
        shown = "" if isinstance(values, str) else f" ({first_few([_show(name, first, own) for name in differing])})"
        raise UserError(f"process {index} has other {what} than process 0{shown}: use the same {what} on every machine")
    processes.barrier(f"{what} compared", timeout)


def _show(name: str, first: Mapping[str, str], own: Mapping[str, str]) -> str:
    return f"{name}: {short(first.get(name, 'absent'))} in process 0, {short(own.get(name, 'absent'))} here"
