"""Caption files of COCO, and Karpathy's splits."""

import json

import numpy as np
import pytest

from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.sources import coco
from rankclip_jax.errors import UserError


def content(pairs):
    return [(pairs.key(i), pairs.captions(i)) for i in range(len(pairs))]


def open_coco(file, **options):
    return coco.open_pairs([str(file)], PairOptions(**options))


def karpathy():
    splits = ["train", "restval", "val", "test"] * 3
    return {
        "dataset": "coco",
        "images": [
            {
                "filepath": "val2014",
                "filename": f"{i}.jpg",
                "split": split,
                "sentences": [{"raw": f"caption {i} {j}", "tokens": []} for j in range(5)],
            }
            for i, split in enumerate(splits)
        ],
    }


def test_karpathy_splits(tmp_path):
    file = tmp_path / "dataset_coco.json"
    file.write_text(json.dumps(karpathy()))
    found = content(open_coco(file, split="test"))
    assert found == [(f"val2014/{i}.jpg", tuple(f"caption {i} {j}" for j in range(5))) for i in (3, 7, 11)]
    together = open_coco(file, split="train+restval")
    assert [together.key(i) for i in range(6)] == [f"val2014/{i}.jpg" for i in (0, 1, 4, 5, 8, 9)]
    with pytest.raises(UserError, match=r"holds several splits: name one, .* Known: train, restval, val, test"):
        open_coco(file)
    with pytest.raises(UserError, match=r"unknown split of .*'tset'. Did you mean 'test'\?"):
        open_coco(file, split="tset")
    data = karpathy()
    data["images"] = [image for image in data["images"] if image["split"] == "test"]
    file.write_text(json.dumps(data))
    assert content(open_coco(file)) == found  # the only split


def test_flickr_has_no_folders(tmp_path):
    data = karpathy()
    for image in data["images"]:
        del image["filepath"]
    (tmp_path / "f.json").write_text(json.dumps(data))
    assert open_coco(tmp_path / "f.json", split="val").key(0) == "2.jpg"


def test_coco_captions(tmp_path):
    """Images and captions keep the order of the file; images without captions are left out."""
    numbers = np.random.default_rng(0).permutation(20)
    data = {
        "images": [{"id": int(i), "file_name": f"{i}.jpg"} for i in range(5)],
        "annotations": [{"image_id": int(i) % 4, "caption": f"c{i}"} for i in numbers],
    }
    (tmp_path / "c.json").write_text(json.dumps(data))
    expected = [(f"{k}.jpg", tuple(f"c{i}" for i in numbers if i % 4 == k)) for k in range(4)]
    assert content(open_coco(tmp_path / "c.json")) == expected
    with pytest.raises(UserError, match="has only one split: leave out #val"):
        open_coco(tmp_path / "c.json", split="val")


def test_a_caption_file_whose_images_were_cut(tmp_path, caplog):
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(3)]
    notes = [{"image_id": i, "caption": f"caption {n} of {i}"} for i in (0, 1, 7, 8) for n in range(2)]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": notes}))
    with caplog.at_level("WARNING"):
        found = content(open_coco(tmp_path / "a.json"))
    assert found == [(f"{i}.jpg", (f"caption 0 of {i}", f"caption 1 of {i}")) for i in (0, 1)]
    assert "4 of 8 annotations, whose image is not listed; 1 of 3 images, without captions" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid JSON .*: is it complete"),
        ('{"images": [', "is not valid JSON"),
        ("[]", "is not a caption file in the layout of COCO or Karpathy"),
        ("{}", r"is not a caption file .*KeyError: 'images'"),
        ('{"images": [{"id": 1, "file_name": "a"}], "annotations": []}', "has no captions"),
        (
            '{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 2, "caption": ""}]}',
            "none of the 1 annotations is of an image in `images`: compare the ids",
        ),
        (
            '{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "annotations": []}',
            "several of `images` have the same id",
        ),
        ('{"images": [{"id": 1}], "annotations": [{"image_id": 1, "bbox": []}]}', "KeyError: 'caption'"),
    ],
)
def test_invalid_caption_files(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=message):
        open_coco(tmp_path / "a.json")
    with pytest.raises(UserError, match="cannot read"):
        open_coco(tmp_path / "none.json")


def test_splits_of_images_with_annotations(tmp_path):
    images = [{"id": i, "file_name": f"{i}.jpg", "split": split} for i, split in enumerate(("train", "test", "train"))]
    notes = [{"image_id": i, "caption": f"caption of {i}"} for i in range(3)]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": notes}))
    assert content(open_coco(tmp_path / "a.json", split="test")) == [("1.jpg", ("caption of 1",))]
    with pytest.raises(UserError, match="holds several splits: name one"):
        open_coco(tmp_path / "a.json")


@pytest.mark.parametrize("captions", [["a", None, "b"], "a", [["a", "b"], 3]])
def test_captions_of_coco_in_other_forms(tmp_path, captions):
    captions = captions if isinstance(captions, list) else [captions]
    annotations = [{"image_id": 1, "caption": caption} for caption in captions]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": annotations}))
    expected = ("a", "b") if len(captions) > 1 else ("a",)
    assert coco.open_pairs([str(path)], PairOptions()).captions(0) == expected
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": 7}], "annotations": annotations}))
    with pytest.raises(UserError, match=r"is not a caption file .*the name of an image is not text"):
        coco.open_pairs([str(path)], PairOptions())
