"""The two forms of ListMLE's sums: float64 on CPUs, and a running maximum for accelerators and any range."""

import numpy as np
import pytest

from rankclip_jax.objectives import listmle
from rankclip_jax.objectives.listmle import listmle_exact
from tests.objectives.test_listmle import SCALES, assert_agrees, loss_and_gradient, random_lists
from tests.support.oracles import listmle as oracle


@pytest.mark.parametrize("scale", [1.0, 100.0, 299.0])
@pytest.mark.parametrize("levels", [0, 1, 3])
def test_sums_in_float64_lose_no_digit(scale, levels):
    """Up to a range of 600, CPUs differ from the oracle only by the last rounding, to float32."""
    utility, reference = random_lists(5, 200, scale, levels)
    loss, gradient = loss_and_gradient(listmle_exact, utility, reference)
    expected_loss, expected_gradient = oracle(utility, reference)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-7)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("span", [599.0, 600.0, 601.0, 1e30])
@pytest.mark.parametrize("best_first", [True, False])
def test_both_forms_meet_where_one_ends(span, best_first):
    """The last item has a probability of exp(-span), in one row; the other row is ordinary."""
    utility = np.float32([[span / 2, 0.0, -span / 2], [0.3, 0.2, 0.1]])
    reference = np.float32([[3, 2, 1], [1, 2, 3]])[:, :: 1 if best_first else -1]
    found = loss_and_gradient(listmle_exact, utility, reference)
    assert np.isfinite(found[0]).all() and np.isfinite(found[1]).all()
    assert_agrees(found, oracle(utility, reference), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("infinite", [np.inf, -np.inf])
def test_an_infinite_utility_spoils_its_row_only(infinite):
    utility, reference = random_lists(3, 8)
    expected = oracle(utility, reference)
    utility[1, 4] = infinite
    loss, gradient = loss_and_gradient(listmle_exact, utility, reference)
    assert_agrees((loss[[0, 2]], gradient[[0, 2]]), [x[[0, 2]] for x in expected], rtol=1e-5, atol=1e-5)
    assert not np.isfinite(loss[1])


@SCALES
def test_the_form_of_accelerators(scale, monkeypatch):
    """It is the only one where there are few lists."""
    monkeypatch.setattr(listmle, "FEW_LISTS", 0)
    utility, reference = random_lists(5, 23, scale, 4)
    found = loss_and_gradient(lambda *x: listmle_exact(*x), utility, reference)
    assert_agrees(found, oracle(utility, reference), rtol=2e-5 + scale * 1e-6, atol=2e-5 + scale * 1e-6)
