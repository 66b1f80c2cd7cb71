"""The table of open_clip's models in docs/weights.md: complete, true, and made by open_clip's own embeddings."""

import pytest

from rankclip_jax.errors import UserError
from rankclip_jax.weights.formats.open_clip_config import check_supported
from tests.golden import open_clip_table
from tests.golden.open_clip_table import LIMIT, compare, documented, reason

# One model for each kind of tower.
KINDS = ["RN50x4", "ViT-B-16-SigLIP2", "ViT-B-16-SigLIP", "ViT-M-16-alt", "ViT-L-14-CLIPA", "ViT-L-14-worldwide"]


def test_errors_in_the_table_are_below_the_limit():
    errors = [row for row in documented().values() if not isinstance(row, str)]
    assert len(errors) > 80 and max(map(max, errors)) <= LIMIT


def test_the_table_has_every_model_and_the_reasons_why_some_are_not_read():
    open_clip = pytest.importorskip("open_clip")
    table = documented()
    assert set(table) == set(open_clip.list_models())
    for name, row in table.items():
        cfg = open_clip.get_model_config(name)
        if isinstance(row, str):
            with pytest.raises(UserError) as caught:
                check_supported(cfg, "config")
            assert reason(str(caught.value).removeprefix("config: ")) == row
        else:
            check_supported(cfg, "config")


@pytest.mark.parametrize("name", KINDS)
def test_one_model_of_each_kind(name):
    open_clip = pytest.importorskip("open_clip")
    assert compare(name, open_clip.get_model_config(name)).holds


@pytest.mark.slow
def test_all_models():
    pytest.importorskip("open_clip")
    assert [row for row in open_clip_table.rows() if not row.holds] == []
