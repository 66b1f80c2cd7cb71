"""Names of folders and files: splits, folders of operating systems, endings in capitals, compressed files."""

import pytest

from rankclip_jax.data.storage.folders import SYSTEM, walk
from rankclip_jax.data.storage.locations import expand
from rankclip_jax.data.storage.split_names import are_splits
from rankclip_jax.errors import UserError


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train", "test"], True),
        (["Training", "val2017", "unlabeled"], True),
        (["training_set", "test_set"], True),
        (["seg_train", "seg_test", "seg_pred"], True),
        (["trainA", "trainB", "testA", "testB"], True),
        (["train", "train2"], False),
        (["trainA", "trainB"], False),
        (["bullet train", "test tube", "freight train"], False),
        (["train", "car", "plane"], False),
        (["a", "b"], False),
    ],
)
def test_names_of_splits(names, expected):
    assert are_splits(names) is expected


def test_folders_of_operating_systems(tmp_path):
    for name in (*SYSTEM, ".hidden", "cat", "cat/@eaDir"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    assert [folder for folder, files in walk(str(tmp_path)) if files] == [str(tmp_path / "cat")]


def test_endings_in_a_folder(tmp_path):
    for name in ("a.csv", "B.CSV", "c.txt", ".d.csv"):
        (tmp_path / name).touch()
    assert expand(str(tmp_path), extensions=(".csv",)) == [str(tmp_path / "B.CSV"), str(tmp_path / "a.csv")]
    (tmp_path / "e.csv.gz").touch()
    with pytest.raises(UserError, match=r"holds compressed files, such as e.csv.gz: decompress them"):
        expand(str(tmp_path), extensions=(".csv",))


def test_a_glob_of_several_splits_is_reported(tmp_path, caplog):
    for name in ("cc3m-train-0.tar", "cc3m-train-1.tar", "cc3m-validation-0.tar"):
        (tmp_path / name).touch()
    assert len(expand("*train*.tar", str(tmp_path))) == 2 and not caplog.text
    assert len(expand("*.tar", str(tmp_path))) == 3
    assert (
        "*.tar: the files belong to several splits by their names (train, validation), and all are read" in caplog.text
    )
