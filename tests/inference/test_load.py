"""`rankclip_jax.load`: from a run folder to embeddings, with every form of image and path."""

import itertools

import numpy as np
import pytest
from PIL import Image

import rankclip_jax
from rankclip_jax.data.images.resize import resize_and_crop
from rankclip_jax.data.sources.emoji import load as load_emoji
from rankclip_jax.errors import UserError
from rankclip_jax.evals.results import strings_of
from tests.support import runs

pytestmark = pytest.mark.xdist_group("trouble")  # these tests share a run, made once per worker


@pytest.fixture(scope="module")
def run(short_run):
    return short_run


@pytest.fixture(scope="module")
def encoder(run):
    return rankclip_jax.load(run)


@pytest.fixture(scope="module")
def images():
    """The images of `val`; the run folder holds their embeddings."""
    return load_emoji().evals["val"].images


def test_embeddings_are_those_of_the_evaluation(run, encoder, images):
    with np.load(run / "embeddings.npz") as kept:
        np.testing.assert_array_equal(encoder.encode_image(images).astype(np.float16), kept["image_embeds"])
        texts = strings_of(kept)["texts"]
        np.testing.assert_array_equal(encoder.encode_text(texts).astype(np.float16), kept["text_embeds"])


def test_embeddings_are_float32_of_unit_norm(encoder, images):
    for embeds in (encoder.encode_image(images[:5]), encoder.encode_text(["a cat", "", "a dog " * 100])):
        assert embeds.dtype == np.float32 and embeds.shape[1] == 16
        np.testing.assert_allclose(np.linalg.norm(embeds, axis=1), 1, rtol=1e-6)
    assert encoder.encode_text("a cat").shape == (1, 16)


def test_an_image_is_the_same_in_every_form(tmp_path, encoder, images):
    path = tmp_path / "image.png"
    Image.fromarray(images[7]).save(path)
    expected = encoder.encode_image(images[:20])[7:8]
    forms = (path, str(path), Image.open(path), images[7], images[7:8], [images[7]], [path], [Image.open(path)])
    for form in forms:
        np.testing.assert_allclose(encoder.encode_image(form), expected, atol=1e-6)
        np.testing.assert_array_equal(encoder.encode_image(form), encoder.encode_image(forms[0]))
    generated = encoder.encode_image(itertools.chain(images, images, images))  # more than are encoded together
    np.testing.assert_array_equal(generated, np.tile(encoder.encode_image(images), (3, 1)))
    mixed = encoder.encode_image([path, images[7], Image.open(path), images[8]])
    np.testing.assert_allclose(mixed[:3], np.repeat(expected, 3, axis=0), atol=1e-6)
    assert not np.allclose(mixed[3], expected)


def test_other_sizes_are_resized(encoder, images):
    large = np.asarray(Image.fromarray(images[0]).resize((200, 130)))
    small = np.asarray(Image.fromarray(images[0]).resize((20, 31)))
    found = encoder.encode_image([large, small, images[0]])
    fitted = np.stack([resize_and_crop(image, 64) for image in (large, small, images[0])])
    np.testing.assert_array_equal(found, encoder.encode_image(fitted))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_every_image_mode(tmp_path, encoder, images, mode):
    image = Image.fromarray(images[3]).convert(mode)
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image.save(path)
    expected = encoder.encode_image(np.asarray(image.convert("RGB")))
    for form in (path, image):
        np.testing.assert_allclose(encoder.encode_image(form), expected, atol=1e-6)


def test_tokens_and_temperature(run, encoder):
    tokens = encoder.tokenize(["a cat", "a dog " * 100])
    assert tokens.dtype == np.int32 and tokens.shape == (2, 16)
    assert (tokens[:, 0] == encoder.tokenizer.sot_id).all() and tokens[1, -1] == encoder.tokenizer.eot_id
    last = [line for line in runs.history(run) if "train/loss" in line][-1]
    assert encoder.temperature_scale == pytest.approx(last["train/temperature_scale"], rel=1e-6)


def test_every_path_to_the_same_checkpoint(run, encoder, images, monkeypatch):
    expected = encoder.encode_image(images[:2])
    monkeypatch.chdir(run / "checkpoints")
    for path in (str(run), run / "checkpoints", run / "checkpoints" / "20", f"{run}/", "20", "."):
        np.testing.assert_array_equal(rankclip_jax.load(path).encode_image(images[:2]), expected)
    np.testing.assert_array_equal(rankclip_jax.load(run, step=20).encode_image(images[:2]), expected)


def test_earlier_and_best_checkpoints(run, encoder, images):
    name = "val/image_to_text_R@1"
    saved = runs.checkpoint_steps(run)
    # Every saved step was evaluated; among equal scores the newest is the best.
    scores = {line["step"]: line[name] for line in runs.history(run) if name in line and line["step"] % 5 == 0}
    best = max(scores, key=lambda step: (scores[step], step))
    assert saved == sorted({15, 20, best})
    found = {step: rankclip_jax.load(run, step).encode_image(images[:2]) for step in (15, best, "best")}
    np.testing.assert_array_equal(found["best"], found[best])
    assert not np.array_equal(found[15], encoder.encode_image(images[:2]))


@pytest.mark.parametrize(
    "path, step, message",
    [
        ("nothing", None, r"no run at .*nothing: config\.json is missing; give the --workdir"),
        ("run/metrics.jsonl", None, r"no run at .*metrics\.jsonl"),
        ("run/checkpoints/3", None, r"no intact checkpoint 3 in .*: 3: its meta file is missing"),
        ("run", 3, r"no intact checkpoint 3 in "),
        ("run", "newest", r"step 'newest' is neither a number nor 'best'"),
        ("run", 1.5, r'step=1.5 must be the number of a step, "best", or None for the newest'),
        ("run", True, "step=True must be"),
    ],
)
def test_a_wrong_path_is_a_user_error(run, path, step, message):
    with pytest.raises(UserError, match=message):
        rankclip_jax.load(run.parent / path, step)


@pytest.mark.parametrize("path", [None, "", 20, b"runs/mine", ["runs/mine"]])
def test_a_path_that_is_none(path):
    with pytest.raises(UserError, match=r"a model cannot be loaded from .*: pass the path of a run folder"):
        rankclip_jax.load(path)


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True, "8"])
def test_a_wrong_batch_size_is_a_user_error(run, batch_size):
    with pytest.raises(UserError, match=r"batch_size=.* must be a whole number of at least 1"):
        rankclip_jax.load(run, batch_size=batch_size)


def test_a_run_without_a_checkpoint(run, tmp_path):
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    with pytest.raises(UserError, match="no intact checkpoint in "):
        rankclip_jax.load(tmp_path)


@pytest.mark.parametrize(
    "images, message",
    [
        ("no/such.png", "no image at no/such.png"),
        (["no/such.png"] * 2, "image 0: no image at no/such.png"),
        ([np.zeros((9, 9, 3), np.uint8), None], "image 1: an image cannot be None"),
        ((image for image in [__file__]), "cannot read .* as an image .*: convert it to PNG or JPEG"),
        (np.zeros((64, 64, 3), np.float32), r"must be uint8 \[H, W, 3\], found float32 \[64, 64, 3\]"),
        ([], "was given no images"),
        (iter(()), "was given no images"),
    ],
)
def test_an_invalid_image_is_a_user_error(encoder, images, message):
    with pytest.raises(UserError, match=message):
        encoder.encode_image(images)


def test_no_texts_is_a_user_error(encoder):
    with pytest.raises(UserError, match="was given no texts"):
        encoder.encode_text([])
