"""Signs of accelerators, and what training and the doctor say if JAX does not use them."""

import pytest

from rankclip_jax.errors import UserError
from rankclip_jax.parallel import accelerators
from tests.support import runs


def dev(tmp_path, *names: str):
    for name in names:
        (tmp_path / name).touch()
    return tmp_path


def test_nothing_is_expected_of_a_plain_machine(tmp_path):
    assert accelerators.signs({}, dev(tmp_path, "null", "nvidiactl")) == {}


@pytest.mark.parametrize(("node", "kind"), [("nvidia0", "gpu"), ("accel3", "tpu")])
def test_device_nodes(tmp_path, node, kind):
    assert accelerators.signs({}, dev(tmp_path, node)) == {kind: f"{tmp_path / node} exists"}


def test_plugins_for_cuda_are_a_sign(tmp_path, monkeypatch):
    monkeypatch.setattr(accelerators, "CUDA_PLUGINS", ("no_such_module", "numpy"))
    assert accelerators.signs({}, tmp_path) == {"gpu": "numpy is installed"}


def test_variables_of_tpu_machines(tmp_path):
    assert accelerators.signs({"TPU_WORKER_ID": "0"}, tmp_path) == {"tpu": "TPU_WORKER_ID is set"}


@pytest.mark.parametrize(
    "hidden", [{"JAX_PLATFORMS": "cpu"}, {"CUDA_VISIBLE_DEVICES": ""}, {"CUDA_VISIBLE_DEVICES": "-1"}]
)
def test_hidden_accelerators_are_not_expected(tmp_path, hidden):
    assert accelerators.signs(hidden, dev(tmp_path, "nvidia0")) == {}


def test_only_the_cpu_is_a_problem(tmp_path):
    found = accelerators.signs({}, dev(tmp_path, "nvidia0"))
    assert "found no GPU, only the CPU" in accelerators.missing("cpu", found)
    assert accelerators.missing("gpu", found) == "" and accelerators.missing("cpu", {}) == ""


def test_check_raises_unless_allowed(monkeypatch):
    monkeypatch.setattr(accelerators, "signs", lambda: {"tpu": "/dev/accel0 exists"})
    accelerators.check(allow_cpu=True)
    with pytest.raises(UserError, match=r"/dev/accel0 exists.*\[tpu\].*config.allow_cpu=True"):
        accelerators.check(allow_cpu=False)


def test_training_stops_before_it_reads_data(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(accelerators, "signs", lambda: {"gpu": "/dev/nvidia0 exists"})
    code, _, err = runs.train_here(capsys, tmp_path / "run", "--config.allow_cpu=False", "--config.data.train=missing")
    assert code == 2 and "only the CPU, although /dev/nvidia0 exists" in err and not (tmp_path / "run").exists()
