"""Twenty steps on one device, on eight, and in two and four processes: the same losses and, after them, gradient.

Rounding differs between layouts, and Adam makes whole steps of gradients that are nothing but rounding.
"""

import numpy as np
import pytest

from tests.support import processes

RUN = "import sys; from tests.support import layouts; layouts.main(*sys.argv[1:])"
OBJECTIVES = ("clip", "exact")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("layouts")]


def run(out, fsdp, devices=1, count=1):
    cases = [f"{name}:{fsdp}" for name in OBJECTIVES]
    for code, _, err in processes.run_together(RUN, out, *cases, count=count, devices=devices, seconds=400):
        assert code == 0, err
    with np.load(out) as file:
        return {name: (file[f"{name}:{fsdp}/losses"], file[f"{name}:{fsdp}/gradient"]) for name in OBJECTIVES}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return run(tmp_path_factory.mktemp("one") / "one.npz", 1)


@pytest.mark.parametrize(
    "fsdp, devices, count", [(1, 8, 1), (4, 8, 1), (8, 8, 1), (1, 4, 2), (4, 4, 2), (8, 4, 2), (2, 2, 4), (8, 2, 4)]
)
def test_a_layout_trains_like_one_device(one, tmp_path, fsdp, devices, count):
    found = run(tmp_path / "found.npz", fsdp, devices, count)
    for name in OBJECTIVES:
        (losses, gradient), (expected, reference) = found[name], one[name]
        by_loss = np.max(np.abs(losses / expected - 1))
        by_gradient = np.linalg.norm(gradient - reference) / np.linalg.norm(reference)
        print(f"{name}: {count} x {devices} devices, fsdp {fsdp}: losses {by_loss:.1e}, gradient {by_gradient:.1e}")
        assert by_loss < 1e-4 and by_gradient < 1e-4
