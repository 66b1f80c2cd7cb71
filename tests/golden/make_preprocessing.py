"""Store what open_clip makes of the images in `preprocessing`, as uint8 [height, width, 3].

    python -m tests.golden.make_preprocessing          rewrites tests/golden/preprocessing.npz

It needs torch, torchvision and open_clip_torch. The tests that read the file need none of them.
"""

import numpy as np

from tests.golden.preprocessing import CASES, FILE, SETTINGS, SIZES, image


def made(settings: str, mode: str, size: str) -> np.ndarray:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    options, target = SETTINGS[settings]
    plain = PreprocessCfg(size=target, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), **options)
    pixels = image_transform_v2(plain, is_train=False)(image(mode, SIZES[size])).numpy()
    return np.rint(255 * pixels).astype(np.uint8).transpose(1, 2, 0)


if __name__ == "__main__":
    np.savez_compressed(FILE, **{"|".join(case): made(*case) for case in CASES})
    print(f"{FILE}: {len(CASES)} images, {FILE.stat().st_size:,} bytes")
